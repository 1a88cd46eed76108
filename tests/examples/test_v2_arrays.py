"""The example of V2, asked as its docstring says."""

import pytest
from served import example_client

pytestmark = pytest.mark.system


def test_arrays_in_arrays_out() -> None:
    with example_client("v2_arrays:entry") as client:
        x = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
        answer = client.post("/v2/models/shop-17/infer", json={"inputs": [x]})
        assert answer.json()["outputs"][0]["data"] == [18.0, 35.0]
        assert client.get("/v2/models/shop-17").json()["inputs"][0]["name"] == "x"
        wrong = client.post("/v2/models/shop-17/infer", json={"inputs": [{**x, "datatype": "FP64"}]})
        assert (wrong.status_code, wrong.json()) == (400, {"error": "Input 'x' is of FP32, got FP64."})
        assert client.post("/v2/models/other/infer", json={"inputs": [x]}).status_code == 404
