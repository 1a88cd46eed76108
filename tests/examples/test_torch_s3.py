"""The program that the project began with, run as its docstring says, with models that come from an S3 server."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from s3_server import s3_server
from served import Served, is_running, serving, wait_until

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS = [[1, 2, 3], [10, 20, 30]]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """The tests share one program, so none of them builds on what another left in its cache; the last one ends it."""
    models = {f"{n}/model.pt": saved_model(n) for n in (1, 2, 3, 4)}
    with s3_server("my_bucket", models), serving("torch_s3:entry", EXAMPLES) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=30.0, trust_env=False) as client:
        yield client


def saved_model(n: int) -> bytes:
    """A model that answers n times the sum of each row."""
    import torch  # takes seconds, which runs without these tests should not spend

    model = torch.nn.Linear(3, 1, bias=False)
    torch.nn.init.constant_(model.weight, n)
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue()


def ask(client: httpx.Client, model_id: int) -> httpx.Response:
    return client.post("/", headers={"serve_multiplexed_model_id": str(model_id)}, json=ROWS)


def starts(client: httpx.Client, *model_ids: int) -> list[str]:
    """Whether each was cold or warm, asked one after the other."""
    return [ask(client, model_id).raise_for_status().headers["x-modelplex-model"] for model_id in model_ids]


@pytest.mark.parametrize("model_id", [1, 2, 3, 4])
def test_each_model_answers_as_itself(client: httpx.Client, model_id: int) -> None:
    answer = ask(client, model_id)

    assert answer.status_code == 200
    assert answer.json() == [[6.0 * model_id], [60.0 * model_id]]


def test_a_model_is_cold_once_and_warm_from_then_on(client: httpx.Client) -> None:
    starts(client, 2, 3, 4)

    assert starts(client, 1, 1, 1) == ["cold", "warm", "warm"]


def test_of_three_slots_the_least_recently_used_is_given_away(client: httpx.Client) -> None:
    starts(client, 1, 2, 3)

    assert starts(client, 1, 4) == ["warm", "cold"]
    assert starts(client, 2, 1) == ["cold", "warm"]


def test_a_model_that_is_not_in_the_bucket_is_an_error_that_names_it(client: httpx.Client) -> None:
    answer = ask(client, 9)

    assert answer.is_server_error
    assert "'9'" in answer.text
    assert re.search(r'Traceback|File "|line \d', answer.text) is None


def test_ctrl_c_ends_every_process_and_the_log_tells_of_each_load(client: httpx.Client, served: Served) -> None:
    starts(client, 2, 3, 4)
    request_id = ask(client, 1).headers["x-request-id"]
    children = served.children()
    assert len(children) == 2  # a proxy and a replica

    assert served.stop() == 0
    wait_until(lambda: not any(is_running(pid) for pid in children), "every process has ended", timeout_s=1.0)

    # What users of the interface are used to read.
    line = (
        r"INFO \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} default_ModelInferencer default_ModelInferencer#\w+ "
        + re.escape(request_id)
        + r" / default \w+\.py:\d+ - (.*)"
    )
    messages = [found[1] for found in map(re.compile(line).fullmatch, served.log.splitlines()) if found]
    assert messages[0] == f"Started executing request {request_id}"
    assert "Loading model '1'." in messages
    assert re.fullmatch(r"__CALL__ OK \d+\.\dms", messages[-1])
