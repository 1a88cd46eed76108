"""A program whose models do not come back, with real processes: it is told so, and goes on all the same."""

import collections
import itertools
import threading

import pytest
from served import Reply, Served, call_from_many, serving, wait_until

pytestmark = pytest.mark.system


def noted(served: Served, what: str) -> list[str]:
    """The model, process and object of each such line."""
    return [event.removeprefix(f"{what} ") for event in served.events if event.startswith(f"{what} ")]


def test_a_replica_that_leaks_too_much_is_replaced_and_no_request_is_lost() -> None:
    replies: list[Reply] = []
    over = threading.Event()
    with serving("leaky:limited") as served:

        def clients() -> None:
            for turn in itertools.count():
                if over.wait(0.2):
                    return
                replies.extend(call_from_many(served.port, [f"m{turn * 4 + n}" for n in range(4)] * 3, clients=4))

        def pids() -> set[str]:
            return {reply.body.split()[1].decode() for reply in list(replies)}

        thread = threading.Thread(target=clients)
        thread.start()
        try:
            wait_until(lambda: len(pids()) >= 4, "both replicas have been replaced", 60)
        finally:
            over.set()
            thread.join()
        assert collections.Counter(reply.status for reply in replies) == {200: len(replies)}
        wait_until(
            lambda: "more than max_leaked_bytes=8388608; starting another in its place." in served.log,
            "the log says why the replica was replaced",
        )
        wait_until(lambda: len(served.children()) == 3, "the old ones have ended")
        assert served.stop() == 0
        # Each model has ended, and once, also those of the replicas that were replaced.
        assert {event.split()[1] for event in noted(served, "load")} >= pids()
        assert sorted(noted(served, "load")) == sorted(noted(served, "end"))


def test_what_leaks_is_named_and_goes_on() -> None:
    with serving("leaky:tolerated") as served:
        for n in range(12):
            served.call(f"m{n}")
        wait_until(lambda: "did not come back" in served.log, "the leak is noticed")
        line = next(line for line in served.log.splitlines() if "did not come back" in line)
        assert line.startswith("WARNING")
        assert "10.0 MiB did not come back" in line
        assert all(f"'m{n}' (1.0 MiB)" in line for n in range(10))
        assert served.call("m11").start == "warm"
