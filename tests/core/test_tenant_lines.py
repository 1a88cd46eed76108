"""Lines of several tenants in one router."""

import pytest

from modelplex.core.admission import UNLIMITED
from modelplex.core.estimates import Estimates
from modelplex.core.routing import Prefetch, Reject, Router, Send, Why
from modelplex.core.tenant_lines import LineLimits
from modelplex.core.tenants import EVERYONE_ELSE


def router(tenants: dict[str, LineLimits] | None, *, slots: int = 2, replicas: int = 1) -> Router:
    made = Router(UNLIMITED, 30.0, Estimates(load_s=1.0, service_s=0.1))
    made.change(UNLIMITED, 30.0, retries_lost=True, tenants=tenants)
    for number in range(replicas):
        made.replica_up(f"r{number}", slots, 10, ["warm"], [], 0.0)
    return made


def test_a_full_queue_is_the_fault_of_its_tenant_alone() -> None:
    core = router({"a": LineLimits(5), "b": LineLimits(2)}, slots=1)
    assert core.submit(1, "warm", 0.0, tenant="b") == [Send(1, "r0", fits=True)]
    assert core.submit(2, "warm", 0.0, tenant="b") == core.submit(3, "warm", 0.0, tenant="b") == []
    assert core.submit(4, "warm", 0.0, tenant="b") == [Reject(4, Why.QUEUE_FULL)]
    assert core.submit(5, "warm", 0.0, tenant="a") == []
    assert core.queued == 3


def test_strangers_share_one_queue() -> None:
    core = router({EVERYONE_ELSE: LineLimits(1)}, slots=1)
    core.submit(1, "warm", 0.0, tenant="x")
    assert core.submit(2, "warm", 0.0, tenant="y") == []
    assert core.submit(3, "warm", 0.0) == [Reject(3, Why.QUEUE_FULL)]


def test_slots_go_by_turns() -> None:
    core = router({"a": LineLimits(UNLIMITED), "b": LineLimits(UNLIMITED)}, slots=1)
    for number in range(1, 6):
        core.submit(number, "warm", 0.0, tenant="b")
    core.submit(6, "warm", 0.0, tenant="a")
    core.submit(7, "warm", 0.0, tenant="a")
    order, running = [], 1
    for _ in range(6):
        commands = core.finish(running, 0.0)
        assert len(commands) == 1
        assert isinstance(commands[0], Send)
        running = commands[0].number
        order.append(running)
    assert order == [6, 2, 7, 3, 4, 5] or order == [2, 6, 3, 7, 4, 5]


@pytest.mark.parametrize("model_id", ["warm", "cold", ""])
def test_a_share_of_slots_is_not_exceeded_and_what_is_left_is_others(model_id: str) -> None:
    core = router({"b": LineLimits(UNLIMITED, 0.5)}, slots=4)
    sent = [bool(core.submit(number, model_id, 0.0, tenant="b")) for number in range(1, 6)]
    assert sent == [True, True, False, False, False]
    assert isinstance(core.submit(6, model_id, 0.0, tenant="a")[0], Send)
    assert [c.number for c in core.finish(6, 0.1) if isinstance(c, Send)] == []
    assert [c.number for c in core.finish(1, 0.1) if isinstance(c, Send)] == [3], "the next of its own"


def test_a_share_is_one_slot_at_least() -> None:
    core = router({"b": LineLimits(UNLIMITED, 0.1)}, slots=2)
    assert [bool(core.submit(number, "warm", 0.0, tenant="b")) for number in (1, 2)] == [True, False]


def test_whoever_waits_goes_on_when_there_are_tenants_and_when_there_are_none_any_more() -> None:
    core = router(None, slots=1)
    for number in (1, 2, 3):
        core.submit(number, "warm", 0.0, tenant="b")
    core.change(UNLIMITED, 30.0, retries_lost=True, tenants={"b": LineLimits(1)})
    assert core.queued == 2
    assert core.next_tick is not None
    assert core.submit(4, "warm", 0.0, tenant="b") == [Reject(4, Why.QUEUE_FULL)]
    assert [c.number for c in core.finish(1, 0.0) if isinstance(c, Send)] == [2]
    core.change(5, 30.0, retries_lost=True)
    assert [c.number for c in core.finish(2, 0.0) if isinstance(c, Send)] == [3]
    assert core.finish(3, 0.0) == []
    assert core.queued == 0


def test_the_same_tenants_again_change_nothing() -> None:
    core = router({"b": LineLimits(5)}, slots=1)
    core.submit(1, "warm", 0.0, tenant="b")
    core.submit(2, "warm", 0.0, tenant="b")
    core.change(UNLIMITED, 30.0, retries_lost=True, tenants={"b": LineLimits(5)})
    assert core.cancel(2, 0.0) == []
    assert core.queued == 0


def test_deadlines_of_all_tenants_are_looked_at() -> None:
    core = router({"a": LineLimits(5), "b": LineLimits(5)}, slots=1)
    core.submit(1, "warm", 0.0, tenant="b")
    core.submit(2, "warm", 0.0, deadline=3.0, tenant="a")
    core.submit(3, "warm", 0.0, deadline=2.0, tenant="b")
    commands = [command for at in (2.0, 3.0) for command in core.tick(at)]
    assert commands == [Reject(3, Why.DEADLINE), Reject(2, Why.DEADLINE)]


def test_who_waited_for_a_lost_replica_waits_for_another() -> None:
    core = router({"a": LineLimits(5), "b": LineLimits(5)}, slots=1)
    core.submit(1, "warm", 0.0, tenant="b")
    core.submit(2, "warm", 0.0, tenant="a")
    core.replica_down("r0", 0.0)
    assert core.queued == 2
    assert len(core.replica_up("r1", 5, 10, [], [], 1.0)) == 2


def test_a_load_that_nobody_waits_for_any_more_is_on_its_tenants_behalf() -> None:
    core = router({"b": LineLimits(5)}, slots=1)
    core.submit(1, "warm", 0.0, tenant="b")
    core.submit(2, "cold", 0.0, cold_deadline=0.5, tenant="b")
    assert core.tick(0.5) == [Prefetch("r0", "cold", tenant="b"), Reject(2, Why.COLD, 1.0)]


def test_who_waits_since_its_share_is_taken_where_a_replica_goes_is_sent_elsewhere() -> None:
    core = router({"b": LineLimits(UNLIMITED, 0.25)}, slots=8)
    for number in (1, 2):
        assert len(core.submit(number, "", 0.0, tenant="b")) == 1
    core.replica_up("r1", 8, 10, [], [], 0.1, ongoing=4)
    assert core.submit(3, "", 0.2, tenant="b") == []
    commands = core.replica_retiring("r0", 0.3) + core.finish(1, 0.4) + core.finish(2, 0.4)
    assert [(c.number, c.replica_id) for c in commands if isinstance(c, Send)] == [(3, "r1")]
