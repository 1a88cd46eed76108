"""What wrk prints, read."""

import pytest

from benchmarks.dataplane import wrk

OUTPUT = """Running 3s test @ http://127.0.0.1:8123
  1 threads and 64 connections
Requests/sec:   5423.62
RESULT requests=16325 duration_us=2500000 bytes=3362950 {errors} p50_us=10698 p99_us=45178 p999_us=92245
"""
NO_ERRORS = "connect=0 read=0 write=0 status=0 timeout=0"


def test_figures_are_read_in_their_units() -> None:
    outcome = wrk.parse(OUTPUT.format(errors=NO_ERRORS))
    assert (outcome.requests, outcome.duration_s, outcome.received_bytes) == (16325, 2.5, 3362950)
    assert outcome.requests_per_s == 6530
    assert (outcome.p50_ms, outcome.p99_ms, outcome.p999_ms) == (10.698, 45.178, 92.245)
    assert outcome.errors == {}


@pytest.mark.parametrize("kind", ["connect", "read", "write", "status", "timeout"])
def test_each_kind_of_error_is_seen(kind: str) -> None:
    output = OUTPUT.format(errors=NO_ERRORS.replace(f"{kind}=0", f"{kind}=7"))
    assert wrk.parse(output).errors == {kind: 7}


@pytest.mark.parametrize(
    "output",
    [
        "unable to connect to 127.0.0.1:1 Connection refused",
        OUTPUT.format(errors=NO_ERRORS).replace("requests=16325", "requests=0"),
    ],
)
def test_a_run_without_an_answer_is_no_measurement(output: str) -> None:
    with pytest.raises(ValueError, match="wrk measured nothing"):
        wrk.parse(output)
