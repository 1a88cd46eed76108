"""Models with versions, by a file of aliases on the disk."""

import json
import os
import time
from pathlib import Path

from many import Model, note

from modelplex import serve

ALIASES = Path(os.environ["ALIASES"])


def resolve(model_id: str) -> str:
    """In a thread, as a client of a registry would run."""
    name, _, tag = model_id.partition("@")
    aliases = json.loads(ALIASES.read_text())
    if tag.isdigit():
        return model_id
    if tag not in aliases:
        raise FileNotFoundError(model_id)
    return f"{name}@{aliases[tag]}"


class Versioned:
    @serve.multiplexed(max_num_models_per_replica=4, resolve=resolve, resolve_interval_s=0.2)
    def get_model(self, model_id: str) -> Model:
        time.sleep(0.3)
        if model_id.endswith("666"):
            note(f"broken {model_id}")
            raise ValueError("broken")
        note(f"load {model_id}")
        return Model(model_id)

    async def __call__(self) -> str:
        model = await self.get_model(serve.get_multiplexed_model_id())
        assert not model.ended
        return f"{serve.get_multiplexed_model_id()} {model.model_id}"


app = serve.deployment(num_replicas=2, max_ongoing_requests=4)(Versioned).bind()
