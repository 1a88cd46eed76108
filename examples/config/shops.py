"""Two deployments and a function that binds them, for the configuration files beside it.

modelplex build shops:app
modelplex run shops:build greeting=Hello copies=2
modelplex check full.yaml
"""

from dataclasses import dataclass

from starlette.requests import Request

from modelplex import serve


@dataclass
class Settings:
    """What `args` in the file may be."""

    greeting: str = "Good morning"
    copies: int = 1


@serve.deployment(max_ongoing_requests=10)
class Forecast:
    """One model per shop. What its model says is its name."""

    @serve.multiplexed(max_num_models_per_replica=100)
    async def get_model(self, model_id: str) -> str:
        return f"the forecast of {model_id}"

    async def __call__(self, request: Request) -> str:
        return str(await self.get_model(serve.get_multiplexed_model_id()))


@serve.deployment
class Gateway:
    """Asks for forecasts, and wraps them up."""

    def __init__(self, forecast: serve.DeploymentHandle, settings: Settings) -> None:
        self.forecast = forecast
        self.settings = settings

    async def __call__(self, request: Request) -> str:
        asked = self.forecast.options(multiplexed_model_id=serve.get_multiplexed_model_id())
        return ", ".join(
            [self.settings.greeting, *[str(await asked.remote(None)) for _ in range(self.settings.copies)]]
        )


app = Forecast.bind()  # type: ignore[attr-defined]  # mypy overlooks what decorators make of classes


def build(settings: Settings) -> serve.Application:
    """The application that the files name."""
    forecast = Forecast.bind()  # type: ignore[attr-defined]
    application: serve.Application = Gateway.bind(forecast, settings)  # type: ignore[attr-defined]
    return application
