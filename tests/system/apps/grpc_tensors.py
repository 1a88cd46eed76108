"""Applications that speak the Open Inference Protocol: a model is a number by which inputs are multiplied."""

import os
from typing import Any

import numpy as np

from modelplex import errors, serve

Arrays = dict[str, np.ndarray[Any, Any]]


def note(line: str) -> None:
    with open(os.environ["EVENTS"], "a") as events:
        events.write(line + "\n")


@serve.deployment
class Scaled:
    def metadata(self, model_id: str) -> dict[str, Any]:
        inputs = [{"name": "x", "datatype": "FP32", "shape": [-1]}]
        return {"platform": "numbers", "inputs": inputs, "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}]}

    @serve.multiplexed(max_num_models_per_replica=4)
    async def get_model(self, model_id: str) -> float:
        note(f"load {model_id}")
        if not model_id.startswith("times-"):
            raise errors.ModelNotFoundError(f"There is no model '{model_id}'.")
        return float(model_id.removeprefix("times-").partition("@")[0])

    def list_models(self) -> list[str]:
        return ["times-2", "times-3", "times-3@7"]

    def infer(self, model: float, inputs: Arrays, parameters: dict[str, Any]) -> Arrays:
        if "fail" in inputs:
            raise ValueError("secret")
        if "text" in inputs:
            return {"text": np.array([text.decode() * int(model) for text in inputs["text"].ravel()], dtype=object)}
        if "same" in inputs:
            return {"same": inputs["same"]}
        answer: Arrays = {"y": inputs["x"] * np.float32(model)}
        if parameters:
            answer["parameters"] = np.array([f"{name}={value}" for name, value in sorted(parameters.items())])
        return answer


app = Scaled.bind()  # type: ignore[attr-defined]
other = Scaled.options(name="Other").bind()  # type: ignore[attr-defined]
