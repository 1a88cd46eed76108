"""The list of models of OpenAI's API: `GET /v1/models` and `/v1/models/{id}`. All else is the deployment's own.

https://platform.openai.com/docs/api-reference/models
"""

from typing import Any

from modelplex import context, errors
from modelplex.protocols.listing import known_models
from modelplex.runtime import asgi
from modelplex.runtime.doors import Answered, DoorRequest, as_json
from modelplex.runtime.model_hosts import ModelHosts
from modelplex.runtime.servable import Servable


class OpenAI:
    """Answers for one replica, unless its app has such a page itself."""

    def __init__(self, servable: Servable, models: ModelHosts, replica: context.ReplicaContext) -> None:
        self._servable = servable
        self._replica = replica

    async def answer(self, request: DoorRequest) -> Answered | None:
        app = self._servable.app
        if app is not None and app.has_page(asgi.http_scope(request.head)):
            return None
        found = await known_models(self._servable, self._replica)
        if not request.model_id:
            return as_json({"object": "list", "data": [_model(model_id) for model_id in sorted(found)]})
        if request.model_id not in found:
            raise errors.ModelNotFoundError(f"There is no model '{request.model_id}' that is loaded or listed.")
        return as_json(_model(request.model_id))


def _model(model_id: str) -> dict[str, Any]:
    return {"id": model_id, "object": "model", "created": 0, "owned_by": "modelplex"}
