"""What the cache of several tenants decides, by hand."""

import itertools

from modelplex.core.backoff import Backoff
from modelplex.core.budget import UNLIMITED
from modelplex.core.cache import Command, Grant, Load, Reject, Start, Unload, Why
from modelplex.core.eviction import LRU
from modelplex.core.tenant_cache import TenantCache
from modelplex.core.tenants import EVERYONE_ELSE, Limits


class Replica:
    """A cache with a clock of its own, whose loads and unloads take no time unless a test says so."""

    def __init__(self, models_max: int, tenants: dict[str, Limits], *, bytes_max: int = UNLIMITED, loads_max: int = -1):
        self.cache = TenantCache(models_max, LRU, Backoff(1.0, 8.0), tenants, bytes_max=bytes_max, loads_max=loads_max)
        self.tickets = itertools.count(1)
        self.now = 0.0

    def acquire(self, model_id: str, tenant: str, owner: str | None = None) -> tuple[int, list[Command]]:
        self.now += 1
        ticket = next(self.tickets)
        return ticket, self.cache.acquire(ticket, model_id, owner, self.now, tenant=tenant)

    def use(self, model_id: str, tenant: str, size_bytes: int = 1) -> list[str]:
        """One request from its begin to its end. Answers what was unloaded for it."""
        ticket, commands = self.acquire(model_id, tenant)
        gone = []
        while commands:
            match commands.pop(0):
                case Unload(victim):
                    gone.append(victim)
                    commands += self.cache.unloaded(victim, self.now)
                case Load(loading):
                    commands += self.cache.loaded(loading, size_bytes, self.now)
                case Reject(why=why):
                    raise AssertionError(why)
        self.cache.release(ticket, self.now)
        return gone


def reserved(models: int = 0, **more: int) -> Limits:
    return Limits(reserved_models=models, reserved_bytes=UNLIMITED, **more)


def test_a_sweep_evicts_nothing_that_is_reserved() -> None:
    replica = Replica(4, {"a": reserved(2)})
    assert replica.use("x", "a") == replica.use("y", "a") == []
    gone = [model_id for n in range(20) for model_id in replica.use(f"swept-{n}", "b")]
    assert gone == [f"swept-{n}" for n in range(18)]
    assert set(replica.cache.resident) == {"x", "y", "swept-18", "swept-19"}


def test_what_is_reserved_and_lent_out_comes_back() -> None:
    replica = Replica(3, {"a": reserved(2)})
    for model_id in ("p", "q", "r"):
        assert replica.use(model_id, "b") == []
    assert replica.use("x", "a") == ["p"]
    assert replica.use("y", "a") == ["q"]
    assert replica.use("z", "a") == ["r"], "what has been idle longest of what may go; its own are younger"
    assert replica.use("p", "b") == ["x"], "it has one more than is reserved for it"


def test_one_that_takes_what_is_reserved_takes_its_own_last() -> None:
    replica = Replica(3, {"a": reserved(3)})
    replica.use("x", "a")
    replica.use("p", "b")
    replica.use("q", "b")
    assert replica.use("y", "a") == ["p"], "though x has been idle longest"


def test_uses_by_others_do_not_change_what_goes_first() -> None:
    replica = Replica(2, {"a": reserved(2)})
    replica.use("old", "a")
    replica.use("new", "a")
    for _ in range(5):
        assert replica.use("old", "b") == []
    assert replica.use("next", "a") == ["old"]


def test_what_others_use_is_not_evicted_meanwhile() -> None:
    replica = Replica(2, {"a": reserved(2)})
    replica.use("old", "a")
    replica.use("new", "a")
    ticket, commands = replica.acquire("old", "b")
    assert commands == [Grant(ticket, "old", Start.WARM)]
    assert replica.use("next", "a") == ["new"]
    assert replica.cache.release(ticket, replica.now) == []
    assert replica.cache.tenant_of("old") == "a"


def test_nobody_grows_over_its_burst_though_there_is_room() -> None:
    replica = Replica(4, {"a": reserved(1), EVERYONE_ELSE: reserved(0, burst_models=2)})
    gone = [model_id for n in range(4) for model_id in replica.use(f"m{n}", f"stranger-{n}")]
    assert gone == ["m0", "m1"], "whatever they are called, they are one"
    assert replica.use("x", "a") == []


def test_a_model_that_can_only_be_had_at_others_cost_is_refused() -> None:
    tenants = {"a": Limits(reserved_models=UNLIMITED, reserved_bytes=60)}
    replica = Replica(UNLIMITED, tenants, bytes_max=100)
    ticket, _ = replica.acquire("huge", "b")
    commands = replica.cache.loaded("huge", 50, replica.now)
    assert commands[0] == Reject(ticket, "huge", Why.TOO_LARGE, 50)
    replica.cache.unloaded("huge", replica.now)
    ticket, commands = replica.acquire("huge", "b")
    assert commands == [Reject(ticket, "huge", Why.TOO_LARGE, 50)]
    assert replica.use("huge", "a", 50) == [], "it may be had by whom it is reserved for"


def test_bytes_of_others_are_left_alone() -> None:
    tenants = {"a": Limits(reserved_models=UNLIMITED, reserved_bytes=60)}
    replica = Replica(UNLIMITED, tenants, bytes_max=100)
    replica.use("x", "a", 30)
    replica.use("y", "a", 30)
    gone = [model_id for n in range(10) for model_id in replica.use(f"m{n}", "b", 20)]
    assert set(replica.cache.resident) >= {"x", "y"}
    assert not {"x", "y"} & set(gone)


def test_a_share_of_loads_leaves_the_rest_to_others() -> None:
    replica = Replica(10, {"a": reserved(2), EVERYONE_ELSE: reserved(0, loads_max=1)}, loads_max=2)
    began = [replica.acquire(f"m{n}", "b")[1] for n in range(5)]
    assert [commands for commands in began if commands] == [[Load("m0")]]
    assert replica.acquire("x", "a")[1] == [Load("x")]


def test_one_that_waits_for_leases_holds_up_nobody_else() -> None:
    replica = Replica(3, {"a": reserved(1), EVERYONE_ELSE: reserved(0, burst_models=2)})
    for model_id in ("p", "q"):
        replica.acquire(model_id, "b", owner=model_id)
        replica.cache.loaded(model_id, 1, replica.now)
    assert replica.acquire("r", "b")[1] == []
    assert replica.acquire("x", "a")[1] == [Load("x")]


def test_a_model_that_another_waits_for_in_a_long_line_is_loaded_in_ones_own_turn() -> None:
    replica = Replica(10, {"a": reserved(2), EVERYONE_ELSE: reserved(0, loads_max=1)}, loads_max=2)
    for n in range(5):
        replica.acquire(f"m{n}", "b")
    assert replica.acquire("m4", "a")[1] == [Load("m4")]
    assert replica.cache.tenant_of("m4") == "a"


def test_loads_begin_in_turns() -> None:
    replica = Replica(100, {"a": reserved(0), "b": reserved(0)}, loads_max=1)
    for n in range(4):
        replica.acquire(f"b{n}", "b")
    replica.acquire("a0", "a")
    replica.acquire("a1", "a")
    order = []
    while replica.cache.loading:
        order += replica.cache.loading
        replica.cache.loaded(replica.cache.loading[0], 1, replica.now)
    assert order == ["b0", "a0", "b1", "a1", "b2", "b3"]


def test_invented_ids_of_one_do_not_make_anothers_wait() -> None:
    replica = Replica(10, {"a": reserved(0)})
    for n in range(5):
        replica.acquire(f"invented-{n}", "b")
        replica.cache.load_failed(f"invented-{n}", "none such", replica.now)
    assert [len(replica.acquire(f"more-{n}", "b")[1]) for n in range(3)] == [1, 0, 0]
    assert [len(replica.acquire(f"new-{n}", "a")[1]) for n in range(3)] == [1, 1, 1]


def test_one_who_can_only_wait_for_itself_is_told() -> None:
    replica = Replica(3, {"a": reserved(2)})
    for model_id in ("x", "y"):
        replica.use(model_id, "a")
    replica.acquire("p", "b", owner="r")
    replica.cache.loaded("p", 1, replica.now)
    ticket, commands = replica.acquire("q", "b", owner="r")
    assert commands == [Reject(ticket, "q", Why.OVERCOMMITTED)]


def test_harm_is_what_the_next_eviction_of_what_is_not_reserved_would_cost() -> None:
    replica = Replica(3, {"a": reserved(2)})
    replica.use("x", "a")
    assert replica.cache.harm_s == 0.0
    _, commands = replica.acquire("p", "b")
    assert commands == [Load("p")]
    replica.now += 5
    replica.cache.loaded("p", 1, replica.now)
    replica.cache.release(2, replica.now)
    assert replica.cache.harm_s == 5.0
    assert replica.cache.room == 1


def test_whether_a_load_would_be_refused_is_known_of_each_tenant() -> None:
    replica = Replica(3, {"a": reserved(1)})
    replica.acquire("bad", "a")
    replica.cache.load_failed("bad", ValueError("x"), replica.now)
    assert replica.cache.refuses("bad", replica.now, "a")
    assert not replica.cache.refuses("bad", replica.now, "b")


def test_a_model_that_turns_out_too_large_throws_out_nothing_that_another_has_reserved() -> None:
    tenants = {"a": Limits(reserved_models=UNLIMITED, reserved_bytes=30)}
    cache = TenantCache(UNLIMITED, LRU, Backoff(1.0, 8.0), tenants, bytes_max=100)
    for ticket, model_id in enumerate(("leased", "idle", "large", "mine"), 1):
        assert cache.acquire(ticket, model_id, None, 0.0, tenant="a" if model_id == "mine" else "b") == [Load(model_id)]
    cache.loaded("leased", 20, 1.0)
    cache.loaded("idle", 60, 1.0)
    cache.release(2, 1.0)
    gone = [c.model_id for c in cache.loaded("mine", 30, 2.0) if isinstance(c, Unload)]
    gone += [c.model_id for c in cache.loaded("large", 60, 2.0) if isinstance(c, Unload)]
    assert gone == ["idle", "large"]
