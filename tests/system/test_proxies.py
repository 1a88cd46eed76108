"""Several proxies share one port, and their routers agree on who loads what without a word to each other."""

import collections
import os
import random
import signal
import threading

import pytest
from served import Client, Reply, Served, call_from_many, processes_naming, serving, wait_until

pytestmark = pytest.mark.system


def loads(served: Served) -> list[str]:
    return [event.split()[1] for event in served.events if event.startswith("load ")]


def proxies_of(served: Served) -> set[int]:
    return set(processes_naming("proxy-")) & set(served.children())


def at_once(served: Served, model_id: str, clients: int) -> list[Reply]:
    """So many requests for one model, each over a connection of its own."""
    return call_from_many(served.port, [model_id] * clients, clients)


def test_models_that_fit_are_loaded_once_each_through_two_proxies() -> None:
    model_ids = [f"m{random.Random(seed).randrange(12)}" for seed in range(2000)]
    with serving("many:three", proxies=2) as served:
        replies = call_from_many(served.port, model_ids, clients=8)
        assert collections.Counter(r.status for r in replies) == {200: 2000}
        assert sorted(loads(served)) == sorted(f"m{n}" for n in range(12))
        assert sum(r.start == "cold" for r in replies) == 12
        held = collections.Counter(replica for replica, _ in {(r.replica, r.body) for r in replies})
        assert sorted(held.values()) == [4, 4, 4]


def test_a_model_that_is_cold_for_four_proxies_at_once_is_loaded_twice_at_most() -> None:
    with serving("wide:eight", proxies=4, LOAD_S="0.3") as served:
        for number in range(8):
            replies = at_once(served, f"m{number}", clients=16)
            assert {r.body for r in replies} == {b'{"model":"m%d"}' % number}
        counts = collections.Counter(loads(served))
        assert len(counts) == 8
        assert max(counts.values()) <= 2, counts


def test_a_killed_proxy_loses_what_it_was_answering_and_nothing_else_and_is_replaced() -> None:
    with serving("many:three", proxies=2) as served:
        before = proxies_of(served)
        assert len(before) == 2
        served.call("m1")
        statuses: list[int] = []
        broken: list[OSError] = []

        def client() -> None:
            for _ in range(100):
                try:
                    statuses.append(served.call("m1").status)
                except OSError as error:  # http.client's errors for a connection that breaks are of this kind
                    broken.append(error)

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(statuses) > 50, "clients are under way")
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        for thread in threads:
            thread.join()
        # Each client had at most one request under way, or on a connection that the dead proxy had taken.
        assert set(statuses) == {200}
        assert len(broken) <= len(threads)
        wait_until(lambda: len(proxies_of(served)) == 2 and victim not in proxies_of(served), "it is replaced")
        assert loads(served) == ["m1"]


def test_a_proxy_that_is_told_to_end_loses_nothing_and_is_replaced() -> None:
    with serving("many:three") as served:
        [before] = proxies_of(served)
        statuses: list[int] = []

        def client() -> None:
            caller = Client(served.port)
            statuses.extend(caller.call("m1").status for _ in range(400))
            caller.close()

        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(statuses) > 100, "clients are under way")
        os.kill(before, signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert collections.Counter(statuses) == {200: 3200}
        wait_until(lambda: len(proxies_of(served)) == 1 and before not in proxies_of(served), "it is replaced")
        assert loads(served) == ["m1"]


def test_all_proxies_end_with_the_program() -> None:
    with serving("many:three", proxies=3) as served:
        served.call("m1")
        before = proxies_of(served)
        assert len(before) == 3
        assert served.stop() == 0
        assert not before & set(processes_naming("proxy-"))
