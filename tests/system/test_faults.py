"""Replicas that die, programs that end: nothing is lost, nothing is left behind."""

import os
import random
import signal
import threading
import time

import pytest
from served import Reply, Served, call_from_many, is_running, processes_naming, serving, wait_until

pytestmark = pytest.mark.system


def replica_pids(served: Served) -> list[int]:
    proxies = processes_naming("proxy-")
    return [pid for pid in served.children() if pid not in proxies]


def test_a_killed_replica_loses_no_request() -> None:
    """One of three replicas is killed each second for ten seconds, under 8 clients."""
    replies: list[Reply] = []
    over = threading.Event()
    with serving("many:three") as served:

        def clients() -> None:
            while not over.is_set():
                replies.extend(call_from_many(served.port, [f"m{n % 12}" for n in range(200)], clients=8))

        thread = threading.Thread(target=clients)
        thread.start()
        killed = 0
        for _ in range(10):
            time.sleep(1)
            if pids := replica_pids(served):
                os.kill(random.Random(killed).choice(pids), signal.SIGKILL)
                killed += 1
        over.set()
        thread.join()
        assert killed == 10
        assert {reply.status for reply in replies} == {200}
        wait_until(lambda: len(replica_pids(served)) == 3, "three replicas run again")


def test_the_request_that_a_dying_replica_had_is_answered_by_another() -> None:
    with serving("many:three") as served:
        replies: list[Reply] = []
        thread = threading.Thread(target=lambda: replies.append(served.call("m1", "/slow")))
        thread.start()
        wait_until(lambda: any(e.startswith("loaded m1") for e in served.events), "the model is loaded")
        victims = [pid for pid in replica_pids(served) if pid == replica_of(served)]
        assert len(victims) == 1
        os.kill(victims[0], signal.SIGKILL)
        thread.join()
        assert replies[0].status == 200


def replica_of(served: Served) -> int:
    """The process that holds m1."""
    return int(served.call("m1", "/pid").body)


def test_a_killed_proxy_is_replaced_and_clients_wait_for_it() -> None:
    with serving("many:three") as served:
        served.call("m1")
        (proxy,) = set(processes_naming("proxy-")) & set(served.children())
        os.kill(proxy, signal.SIGKILL)
        assert served.call("m1").start == "warm"


def test_what_dies_is_noticed_and_replaced_and_status_goes_on() -> None:
    with serving("many:three") as served:
        served.call("m1")
        before = set(replica_pids(served))
        victim = before.pop()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(replica_pids(served)) == 3 and before < set(replica_pids(served)), "it is replaced")
        wait_until(lambda: "killed by SIGKILL; starting another" in served.log, "the log says what happened")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_in_good_order(number: signal.Signals) -> None:
    with serving("many:three") as served:
        served.call("m1")
        children, folder = served.children(), served.sockets_folder()
        assert len(children) == 4
        assert served.stop(number) == 0
        assert not any(is_running(pid) for pid in children)
        assert not folder.exists()
        assert [e.split()[1] for e in served.events if e.startswith("end ")] == ["m1"]


def test_requests_that_run_may_end_before_the_program_does() -> None:
    with serving("many:one") as served:
        replies: list[Reply] = []
        thread = threading.Thread(target=lambda: replies.append(served.call("m1", "/slow")))
        thread.start()
        wait_until(lambda: any(e.startswith("loaded m1") for e in served.events), "the request runs")
        assert served.stop() == 0
        thread.join()
        assert replies[0].status == 200


def test_nothing_outlives_a_program_that_is_killed() -> None:
    with serving("many:three") as served:
        served.call("m1")
        children, folder = served.children(), served.sockets_folder()
        served.process.kill()
        served.process.wait()
        wait_until(lambda: not any(is_running(pid) for pid in children), "all processes have ended")
        wait_until(lambda: not folder.exists(), "the folder of the sockets is gone")
        assert [e.split()[1] for e in served.events if e.startswith("end ")] == ["m1"]
