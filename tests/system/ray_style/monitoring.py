"""Metrics of one's own, the logger that programs for Ray Serve use, the ids of requests."""

import logging

import requests
from starlette.requests import Request

from modelplex import serve
from modelplex.serve import metrics
from modelplex.serve.context import _get_serve_request_context, _serve_request_context

logger = logging.getLogger("ray.serve")


@serve.deployment
class Teller:
    def __init__(self):
        self.asked = metrics.Counter("asked", description="Questions.", tag_keys=("kind",))
        self.asked.set_default_tags({"kind": "any"})
        self.open = metrics.Gauge("open_questions")
        self.seconds = metrics.Histogram("answer_s", boundaries=[0.1, 1.0])

    def __call__(self, request: Request):
        self.asked.inc()
        self.asked.inc(2, tags={"kind": "hard"})
        self.open.set(1)
        self.seconds.observe(0.01)
        context = _serve_request_context.get()
        logger.info("asked by %s", context.request_id)
        return [context.request_id, context.app_name, context.route, _get_serve_request_context().multiplexed_model_id]


serve.run(Teller.bind(), route_prefix="/tell")
answer = requests.get("http://localhost:8000/tell", headers={"X-Request-ID": "q-1", "serve_multiplexed_model_id": "m"})
assert answer.json() == ["q-1", "default", "/tell", "m"]
