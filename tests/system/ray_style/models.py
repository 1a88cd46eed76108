"""Models by id: by header and by handle, evicted, in a composition, the current one asked for anywhere."""

import requests
from starlette.requests import Request

from modelplex import serve
from modelplex.serve.handle import DeploymentHandle


class Dictionary:
    gone = []

    def __init__(self, language: str):
        self.language = language

    def __call__(self, word: str) -> str:
        return f"{word} in {self.language}"

    def __del__(self):
        Dictionary.gone.append(self.language)


@serve.deployment
class Translators:
    def __init__(self):
        self.loads = []

    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> Dictionary:
        self.loads.append(model_id)
        return Dictionary(model_id)

    async def __call__(self, request: Request) -> str:
        model_id = serve.get_multiplexed_model_id()
        model = await self.get_model(model_id)
        return model(request.query_params["word"])

    async def translate(self, word: str) -> str:
        model = await self.get_model(serve.get_multiplexed_model_id())
        return model(word)

    def seen(self):
        return self.loads, Dictionary.gone


@serve.deployment
class Both:
    def __init__(self, translators: DeploymentHandle):
        self.translators = translators

    async def __call__(self, request: Request):
        own = serve.get_multiplexed_model_id()
        other = self.translators.options(method_name="translate", multiplexed_model_id="eo")
        return [own, await other.remote("sun")]


handle = serve.run(Translators.bind())


def ask(language: str) -> str:
    headers = {"serve_multiplexed_model_id": language}
    return requests.get("http://localhost:8000/?word=moon", headers=headers).text


assert [ask(language) for language in ("is", "mt", "is", "cy", "is")] == [
    f"moon in {language}" for language in ("is", "mt", "is", "cy", "is")
]
assert handle.options(multiplexed_model_id="cy").translate.remote("star").result() == "star in cy"
loads, gone = handle.seen.remote().result()
assert loads == ["is", "mt", "cy"]
assert gone == ["mt"]

serve.run(Both.bind(Translators.bind()))
answer = requests.get("http://localhost:8000/", headers={"serve_multiplexed_model_id": "ga"})
assert answer.json() == ["ga", "sun in eo"]
