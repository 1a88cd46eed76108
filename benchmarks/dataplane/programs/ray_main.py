"""Serve an application with Ray Serve until it is ended: ray_main.py MODULE:NAME PORT.

It does what `serve run` does, which takes no port. Everything stays on the loopback interface.
"""

import importlib
import sys

import ray
from ray import serve

module, _, name = sys.argv[1].partition(":")
ray.init(_node_ip_address="127.0.0.1", namespace="serve")
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
serve.run(getattr(importlib.import_module(module), name), blocking=True)
