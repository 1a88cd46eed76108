"""Translators for many languages behind FastAPI, of which each replica holds the last three used.

It needs `pip install modelplex[fastapi]`. The docs are at http://127.0.0.1:8000/docs.

    modelplex run fastapi_app:entry --app-dir examples
    curl -H "serve-multiplexed-model-id: fr" "http://127.0.0.1:8000/words/water"
    curl -H "serve-multiplexed-model-id: fr" -d '{"words": ["bread", "water"]}' -H "content-type: application/json" \
        http://127.0.0.1:8000/texts
"""

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field

from modelplex import serve

DICTIONARIES = {
    "de": {"bread": "Brot", "water": "Wasser"},
    "fr": {"bread": "pain", "water": "eau"},
    "es": {"bread": "pan", "water": "agua"},
    "it": {"bread": "pane", "water": "acqua"},
}

app = FastAPI(title="Translator")


class Text(BaseModel):
    words: list[str] = Field(min_length=1)


@serve.deployment(max_ongoing_requests=20)
@serve.ingress(app)
class Translator:
    @serve.multiplexed(max_num_models_per_replica=3)
    async def get_model(self, model_id: str) -> dict[str, str]:
        if model_id not in DICTIONARIES:
            raise FileNotFoundError(model_id)  # which is a 404
        return DICTIONARIES[model_id]

    async def model(self) -> dict[str, str]:
        model_id = serve.get_multiplexed_model_id()
        if not model_id:
            raise HTTPException(400, "Name a language in the header serve-multiplexed-model-id.")
        model: dict[str, str] = await self.get_model(model_id)
        return model

    @app.get("/words/{word}")
    def word(self, word: str, model: Annotated[dict[str, str], Depends(model)]) -> str:
        if word not in model:
            raise HTTPException(404, f"There is no word for {word!r}.")
        return model[word]

    @app.post("/texts")
    async def text(self, text: Text, model: Annotated[dict[str, str], Depends(model)]) -> list[str]:
        return [model.get(word, word) for word in text.words]


entry = Translator.bind()  # type: ignore[attr-defined] # mypy takes no notice of what class decorators return
