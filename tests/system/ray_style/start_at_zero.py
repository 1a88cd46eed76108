"""An application that begins with no replica: it is running, and its first request starts one."""

import threading

from modelplex import serve


@serve.deployment(autoscaling_config={"min_replicas": 0, "max_replicas": 1, "metrics_interval_s": 0.1})
def sleeper():
    return "awake"


answers = []


def run_and_ask():
    answers.append(serve.run(sleeper.bind()).remote().result(timeout_s=30))


asking = threading.Thread(target=run_and_ask, daemon=True)
asking.start()
asking.join(20)
assert answers == ["awake"]
