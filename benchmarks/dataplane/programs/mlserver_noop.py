"""A model of MLServer that does nothing."""

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Noop(MLModel):  # type: ignore[misc]
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        output = ResponseOutput(name="y", shape=[1], datatype="INT32", data=[0])
        return InferenceResponse(model_name=self.name, outputs=[output])
