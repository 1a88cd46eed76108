"""A mapping as the answer: the parameters of the URL as Starlette has them."""

import requests
import starlette.requests

from modelplex import serve


@serve.deployment
class Parameters:
    def __call__(self, request: starlette.requests.Request):
        return request.query_params


serve.run(Parameters.bind())
assert requests.get("http://localhost:8000/?left=right&up=down").json() == {"left": "right", "up": "down"}
