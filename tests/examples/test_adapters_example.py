"""The example of adapters, run as its docstring says."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served import EXAMPLES, serving

pytestmark = pytest.mark.system

ROWS = [[1, 2, 3, 4], [4, 3, 2, 1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    ran = subprocess.run(
        [sys.executable, EXAMPLES / "adapters.py", folder], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with serving("adapters:entry", EXAMPLES, ADAPTERS=str(folder)) as served:
        address = f"http://127.0.0.1:{served.port}"
        with httpx.Client(base_url=address, timeout=60.0, trust_env=False) as client:
            yield client


def ask(client: httpx.Client, customer: str) -> httpx.Response:
    return client.post("/", headers={"serve_multiplexed_model_id": customer}, json=ROWS)


def test_each_customer_is_answered_by_its_adapter_over_the_one_base(client: httpx.Client, folder: Path) -> None:
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import adapters, peft, torch\n"
        "answers = {c: peft.PeftModel.from_pretrained(adapters.load_base(), f'{sys.argv[2]}/{c}')"
        "(torch.tensor(json.loads(sys.argv[3]), dtype=torch.float32)).tolist() for c in ('ada', 'bob', 'cyd')}\n"
        "print(json.dumps(answers))"
    )
    command = [sys.executable, "-c", code, str(EXAMPLES), str(folder), str(ROWS)]
    wanted = httpx.Response(200, content=subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    for customer, rows in wanted.json().items():
        for answer, row in zip(ask(client, customer).raise_for_status().json(), rows, strict=True):
            assert answer == pytest.approx(row, rel=1e-4, abs=1e-5)


def test_an_adapter_is_loaded_once(client: httpx.Client) -> None:
    ask(client, "ada")
    assert ask(client, "ada").headers["x-modelplex-model"] == "warm"


def test_a_customer_without_an_adapter_is_not_found(client: httpx.Client) -> None:
    assert ask(client, "nobody").status_code == 404
