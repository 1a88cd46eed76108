"""What the loss of a node comes to, and what is deployed where."""

import pytest

from benchmarks.cluster.__main__ import NO_SYSTEMS, SYSTEMS, markdown
from benchmarks.cluster.loss import Answer, figures
from benchmarks.cluster.processes import PROGRAMS, REQUIREMENTS
from benchmarks.cluster.systems import Deployed
from benchmarks.dataplane.processes import BenchmarkError

BEFORE = [
    Answer(0.0, 0.1, "m0", "kept"),
    Answer(0.0, 0.2, "m1", "kept"),
    Answer(0.5, 0.6, "m1", "lost"),  # where it was last is what counts
    Answer(0.5, 0.7, "m2", "lost"),
]


def test_models_are_back_when_another_node_answers() -> None:
    after = [
        Answer(0.9, 1.05, "m1", "lost"),  # was on its way
        Answer(0.9, 1.1, "m0", "kept"),  # was never away
        Answer(0.95, 1.2, "m1", ""),
        Answer(1.0, 1.4, "m1", "kept"),
        Answer(1.5, 1.6, "m1", "third"),
        Answer(0.9, 3.4, "m2", "third"),
    ]
    found = figures([*BEFORE, *after], lost="lost", lost_at=1.0)
    assert found == {
        "models of the node": 2,
        "failed requests": 1,
        "the first of its models answers again after, s": pytest.approx(0.4),
        "all of them after, s": pytest.approx(2.4),
        "longest wait for an answer, s": pytest.approx(2.5),
    }


def test_what_is_not_there_is_no_figure() -> None:
    with pytest.raises(BenchmarkError, match=r"\['m1', 'm2'\] of the node that is lost, \['m1'\] came back"):
        figures([*BEFORE, Answer(1.0, 1.1, "m1", "kept"), Answer(1.0, 9.0, "m2", "")], lost="lost", lost_at=1.0)
    with pytest.raises(BenchmarkError, match="came back"):
        figures([Answer(0.0, 0.1, "m0", "kept")], lost="lost", lost_at=1.0)


def test_all_systems_have_the_same_slots_and_only_a_cluster_has_places() -> None:
    deployed = Deployed(3, 4, spread=True, nodes="other")
    local, there = deployed.options(on_cluster=False), deployed.options(on_cluster=True)
    assert local == {"num_replicas": 3, "max_ongoing_requests": 100}
    assert there == local | {
        "ray_actor_options": {"num_cpus": 1, "resources": {"other": 1}},
        "max_replicas_per_node": 1,
    }


def test_each_group_is_compared_with_one_machine_where_there_is_that() -> None:
    for group, systems in SYSTEMS.items():
        names = [system.name for system in systems]
        assert len(set(names)) == len(names)
        assert not NO_SYSTEMS.keys() & set(names)
        assert group == "loss" or names[0] == "modelplex"
    rounds = [{"modelplex": {"loads": 12.0}, "ray": {"loads": 24.0}, "lru": {"loads": 12.0}}]
    assert "| loads | 12 | 24, 2x | 12, 1x |" in markdown({"loads": rounds}, [])


def test_programs_are_there_and_what_is_installed_is_pinned() -> None:
    assert {file.name for file in PROGRAMS.glob("*.py")} == {"models.py", "nodes.py", "serving.py"}
    assert all("==" in requirement or requirement.startswith("--editable") for requirement in REQUIREMENTS)
