"""An application with its tests: prices in the currency of each shop, whose rates are a model of its own.

The tests run it whole in their own process, with no server, no port and no waiting. They need
`pip install pytest httpx`.

    pytest examples/test_an_app.py
"""

import csv
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from modelplex import serve
from modelplex.metrics import snapshot
from modelplex.pytest_plugin import ServeLocal
from modelplex.serve.exceptions import ModelNotFoundError

Rates = dict[str, float]


# The application: in a project of yours it is a module of its own.


@serve.deployment
class Rater:
    """Knows the rates of the shops that were asked for last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loads = serve.metrics.Counter("rates_loaded", "Files of rates that were read.", tag_keys=("shop",))

    @serve.multiplexed(max_num_models_per_replica=2)
    def get_rates(self, shop: str) -> Rates:
        file = self.folder / f"{shop}.csv"
        if not file.exists():
            raise ModelNotFoundError(f"There is no shop {shop!r}.")
        self.loads.inc(tags={"shop": shop})
        with file.open() as lines:
            return {currency: float(rate) for currency, rate in csv.reader(lines)}

    async def convert(self, amount: float, currency: str) -> float:
        rates: Rates = await self.get_rates(serve.get_multiplexed_model_id())
        return round(amount * rates[currency], 2)


@serve.deployment
class Prices:
    """Answers `/?shop=…&amount=…&currency=…`, or with several currencies, a line for each."""

    def __init__(self, rater: serve.DeploymentHandle) -> None:
        self.rater = rater

    async def __call__(self, request: Request) -> Any:
        asked = request.query_params
        rater = self.rater.options(multiplexed_model_id=asked["shop"])
        amount, currencies = float(asked["amount"]), asked.getlist("currency")
        if len(currencies) == 1:
            return {"price": await rater.convert.remote(amount, currencies[0])}

        async def lines() -> AsyncIterator[str]:
            for currency in currencies:
                yield f"{await rater.convert.remote(amount, currency)} {currency}\n"

        return StreamingResponse(lines())


# Its tests.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "oslo.csv").write_text("EUR,0.1\nUSD,0.125\n")
    (tmp_path / "rome.csv").write_text("EUR,1\nUSD,1.25\n")
    (tmp_path / "bonn.csv").write_text("EUR,1\n")
    return tmp_path


def loads() -> dict[str, float]:
    """How often the rates of each shop were read."""
    (metric,) = [metric for metric in snapshot() if metric["name"] == "rates_loaded"]
    return {series["tags"]["shop"]: series["value"] for series in metric["series"]}


@pytest.mark.parametrize(("shop", "price"), [("oslo", 12.5), ("rome", 125.0)])
def test_each_shop_has_rates_of_its_own(serve_local: ServeLocal, folder: Path, shop: str, price: float) -> None:
    rater = serve_local(Rater.bind(folder))  # type: ignore[attr-defined]  # type checkers do not see the decorator
    assert rater.options(multiplexed_model_id=shop).convert.remote(100, "USD").result() == price


def test_rates_are_read_once_while_there_is_room(serve_local: ServeLocal, folder: Path) -> None:
    rater = serve_local(Rater.bind(folder))  # type: ignore[attr-defined]
    for shop in ("oslo", "rome", "oslo", "bonn", "rome"):  # bonn takes the place of rome
        rater.options(multiplexed_model_id=shop).convert.remote(100, "EUR").result()
    assert loads() == {"oslo": 1, "rome": 2, "bonn": 1}


@pytest.mark.asyncio
async def test_an_unknown_shop_is_an_error(serve_local: ServeLocal, folder: Path) -> None:
    rater = serve_local(Rater.bind(folder))  # type: ignore[attr-defined]
    with pytest.raises(ModelNotFoundError, match="no model 'paris'"):
        await rater.options(multiplexed_model_id="paris").convert.remote(100, "EUR")


def test_clients_get_prices_by_http(serve_local: ServeLocal, folder: Path) -> None:
    serve_local(Prices.bind(Rater.bind(folder)))  # type: ignore[attr-defined]
    client = serve_local.http_client()
    question = {"shop": "rome", "amount": "10"}
    assert client.get("/", params={**question, "currency": "USD"}).json() == {"price": 12.5}
    assert client.get("/", params={**question, "currency": ["EUR", "USD"]}).text == "10.0 EUR\n12.5 USD\n"
    assert client.get("/", params={**question, "currency": "USD", "shop": "paris"}).status_code == 404
