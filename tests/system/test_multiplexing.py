"""What users care about most, over HTTP and with real processes: the right model, loaded once, never lost in use."""

import collections
import contextlib
import http.client
import random
import threading

import pytest
from served import Reply, Served, call_from_many, serving, wait_until

pytestmark = pytest.mark.system


def loads(served: Served) -> list[str]:
    return [event.split()[1] for event in served.events if event.startswith("load ")]


def ends(served: Served) -> list[str]:
    return [event.split()[1] for event in served.events if event.startswith("end ")]


def test_models_that_fit_are_loaded_once_each() -> None:
    model_ids = [f"m{random.Random(seed).randrange(12)}" for seed in range(3000)]
    with serving("many:three") as served:
        replies = call_from_many(served.port, model_ids, clients=8)
        assert collections.Counter(r.status for r in replies) == {200: 3000}
        assert sorted(loads(served)) == sorted(f"m{n}" for n in range(12))
        assert {r.body for r in replies} == {b'{"model":"m%d"}' % n for n in range(12)}
        held = collections.Counter(replica for replica, _ in {(r.replica, r.body) for r in replies})
        assert sorted(held.values()) == [4, 4, 4]


def test_the_least_recently_used_makes_room_and_each_model_ends_once() -> None:
    with serving("many:one") as served:
        for model_id in ("m1", "m2", "async3", "m4", "m1", "m5"):
            assert served.call(model_id).body == b'{"model":"%s"}' % model_id.encode()
        wait_until(lambda: ends(served) == ["m2"], "m2 has ended")
        assert served.call("m1").start == "warm"
        assert served.call("m6").start == "cold"
        wait_until(lambda: ends(served) == ["m2", "async3"], "async3 has ended")
        assert served.stop() == 0
        assert sorted(ends(served)) == ["async3", "m1", "m2", "m4", "m5", "m6"]
        assert "never awaited" not in served.log


def test_a_model_is_not_evicted_while_its_answer_streams() -> None:
    with (
        serving("many:one") as served,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as streaming,
    ):
        streaming.request("GET", "/stream?chunks=40", headers={"serve_multiplexed_model_id": "m0"})
        response = streaming.getresponse()
        first = response.readline()
        for number in range(1, 13):
            assert served.call(f"m{number}").status == 200
        assert "m0" not in ends(served)
        assert [first, *response] == [b"m0 alive\n"] * 40
        for number in range(20, 24):
            served.call(f"m{number}")
        wait_until(lambda: ends(served).count("m0") == 1, "m0 has ended after its stream")


def test_requests_for_one_cold_model_share_its_load() -> None:
    with serving("many:one", LOAD_S="0.5") as served:
        replies = call_from_many(served.port, ["m1"] * 20, clients=20)
        assert collections.Counter(r.start for r in replies) == {"cold": 1, "joined": 19}
        assert loads(served) == ["m1"]


def test_loads_of_different_models_overlap() -> None:
    with serving("many:one", LOAD_S="0.5") as served:
        call_from_many(served.port, ["m1", "m2", "m3", "m4"], clients=4)
        began = [float(e.split()[2]) for e in served.events if e.startswith("load ")]
        ended = [float(e.split()[2]) for e in served.events if e.startswith("loaded ")]
        assert max(began) < min(ended)


def test_a_loader_that_blocks_its_event_loop_misleads_nobody_and_is_not_taken_for_dead() -> None:
    with serving("many:three", LOAD_S="2") as served:
        before = served.children()
        replies: dict[str, list[Reply]] = {"blocking": [], "m1": []}

        def call(model_id: str) -> None:
            replies[model_id].append(served.call(model_id))

        first = threading.Thread(target=call, args=("blocking",))
        first.start()
        wait_until(lambda: loads(served) == ["blocking"], "the load has begun")
        others = [threading.Thread(target=call, args=(model_id,)) for model_id in ("blocking", "blocking", "m1")]
        for thread in others:
            thread.start()
        for thread in (first, *others):
            thread.join()
        # Whoever asked for the model during its load was sent to the same replica.
        assert sorted(loads(served)) == ["blocking", "m1"]
        assert len({r.replica for r in replies["blocking"]}) == 1
        assert served.children() == before


def test_a_client_that_leaves_during_a_load_disturbs_nobody() -> None:
    with serving("many:one", LOAD_S="0.7") as served:
        leaving = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        leaving.request("GET", "/", headers={"serve_multiplexed_model_id": "m1"})
        wait_until(lambda: loads(served) == ["m1"], "the load has begun")
        replies: list[int] = []
        staying = [threading.Thread(target=lambda: replies.append(served.call("m1").status)) for _ in range(3)]
        for thread in staying:
            thread.start()
        leaving.close()
        wait_until(lambda: "CANCELLED" in served.log, "the request of the client that left was cancelled")
        for thread in staying:
            thread.join()
        assert replies == [200, 200, 200]
        assert loads(served) == ["m1"]


def test_a_failed_load_tells_everyone_who_waited_and_names_the_model() -> None:
    with serving("many:one", LOAD_S="0.5") as served:
        replies = call_from_many(served.port, ["broken1"] * 5, clients=5)
        assert loads(served) == ["broken1"]
        assert [r.status for r in replies] == [500] * 5
        assert all(b"broken1" in r.body and b"secret" not in r.body and b"Traceback" not in r.body for r in replies)
        again = served.call("broken1")
        assert (again.status, "retry-after" in again.headers, loads(served)) == (503, True, ["broken1"])
        wait_until(lambda: "the secret of this file" in served.log, "the log says why")
        assert served.call("m1").status == 200
