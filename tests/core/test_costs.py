"""What requests and loads are expected to take on a replica."""

import pytest

from modelplex.core.admission import Request
from modelplex.core.costs import HYSTERESIS, MARGIN_S, Costs
from modelplex.core.disks import EXPECTED_FETCH_S, Disks
from modelplex.core.estimates import Estimates
from modelplex.core.residency import ReplicaView

LOAD_S = 1.0
SERVICE_S = 0.1


def costs(**files: str) -> Costs:
    """With files of models on the disks of machines."""
    disks = Disks()
    for machine, model_id in files.items():
        disks.told(machine, [model_id])
    return Costs(Estimates(LOAD_S, SERVICE_S), disks)


def replica(replica_id: str, *, slots: int = 1, room: int = 2, machine: str = "") -> ReplicaView:
    return ReplicaView(replica_id, slots, room, machine=machine)


def run(view: ReplicaView, model_id: str = "", sent: float = 0.0) -> None:
    """A request runs on the replica."""
    view.slots.take()
    number = len(view.running)
    view.running[number] = request = Request(number, model_id, None)
    request.view, request.sent = view, sent


def test_a_free_slot_is_there_at_once() -> None:
    a = replica("a", slots=2)
    run(a)
    assert costs().slot_s(a, 0.0) == 0.0


def test_the_next_slot_comes_with_the_request_that_has_the_least_left() -> None:
    a = replica("a", slots=2)
    run(a, sent=0.0)
    run(a, sent=0.04)
    assert costs().slot_s(a, 0.04) == pytest.approx(0.06)


def test_a_call_that_has_run_for_seconds_is_not_nearly_done() -> None:
    a = replica("a")
    run(a)
    assert costs().slot_s(a, 4.0) == 4.0


def test_a_request_that_waits_for_its_load_keeps_its_slot_as_long_as_that_takes() -> None:
    a = replica("a")
    a.told_loading("m", 0.0)
    run(a, "m")
    assert costs().slot_s(a, 0.25) == 0.75


def test_those_who_wait_already_come_first() -> None:
    a = replica("a", slots=2)
    run(a)
    run(a)
    a.queued = 6
    assert costs().slot_s(a, 0.0) == pytest.approx(SERVICE_S + 6 * SERVICE_S / 2)


def test_what_other_routers_run_is_expected_to_last_as_long_again_as_no_slot_came_free() -> None:
    a = replica("a")
    a.slots.told(1)
    assert [costs().slot_s(a, now) for now in (0.0, 50.0)] == [SERVICE_S, 50.0]
    a.slot_freed = 49.0
    assert costs().slot_s(a, 50.0) == 1.0


def test_slots_that_others_hold_while_models_load_come_free_after_the_loads() -> None:
    a = replica("a")
    a.slots.told(1)
    a.told_loading("m", 0.0)
    a.slot_freed = 50.0
    assert costs().slot_s(a, 50.0) == SERVICE_S
    a.slot_freed = 0.0
    assert costs().slot_s(a, 0.5) == 0.5
    assert costs().slot_s(a, 4.0) == 4.0


# Files on disks


def test_a_model_whose_file_is_on_the_disk_costs_no_fetch() -> None:
    known = costs(here="m")
    here, there = replica("a", machine="here"), replica("b", machine="there")
    assert known.load_there_s(here, "m", 0.0) == 0.0
    assert known.load_there_s(there, "m", 0.0) == EXPECTED_FETCH_S
    assert known.copy_s(here, "m", 0.0, 0.0) == HYSTERESIS * LOAD_S + MARGIN_S
    assert known.copy_s(there, "m", 0.0, 0.0) == HYSTERESIS * (LOAD_S + EXPECTED_FETCH_S) + MARGIN_S


def test_a_load_with_a_fetch_is_expected_to_last_longer() -> None:
    known = costs(here="m")
    here, there = replica("a", machine="here"), replica("b", machine="there")
    for view in (here, there):
        view.told_loading("m", 0.0)
    assert known.load_rest_s(here, "m", 0.0) == LOAD_S
    assert known.load_rest_s(there, "m", 0.0) == LOAD_S + EXPECTED_FETCH_S


def test_where_no_files_are_known_of_machines_do_not_matter() -> None:
    unknown = costs()
    for machine in ("", "here"):
        view = replica("a", machine=machine)
        assert unknown.load_there_s(view, "m", 0.0) == 0.0
        assert unknown.copy_s(view, "m", 0.0, 0.0) == HYSTERESIS * LOAD_S + MARGIN_S


def test_a_replica_on_a_machine_without_a_name_costs_no_fetch() -> None:
    assert costs(here="m").load_there_s(replica("a"), "m", 0.0) == 0.0
