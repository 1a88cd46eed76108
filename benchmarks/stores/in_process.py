"""The process of one step: `python -m benchmarks.stores.in_process module:function ARGUMENTS` prints the answer."""

import importlib
import json
import sys

if __name__ == "__main__":
    module, _, function = sys.argv[1].partition(":")
    answer = getattr(importlib.import_module(f"benchmarks.stores.{module}"), function)(*json.loads(sys.argv[2]))
    print(json.dumps(answer), flush=True)
