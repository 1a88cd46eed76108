"""Which systems are measured, how, and with which programs."""

import ast
from pathlib import Path

import pytest

from benchmarks.dataplane.measurements import MEASUREMENTS
from benchmarks.dataplane.systems import PROGRAMS, SYSTEMS, System


def test_all_that_is_named_exists() -> None:
    names = {system.name for system in SYSTEMS}
    assert len(names) == len(SYSTEMS)
    assert {name for m in MEASUREMENTS.values() for name in m.systems} <= names
    assigned = {
        ast.unparse(target)
        for node in ast.parse((PROGRAMS / "multiplexed.py").read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
    assert {m.session.entry for m in MEASUREMENTS.values()} <= assigned


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_a_system_is_started_on_the_port_with_its_pinned_requirements(system: System, tmp_path: Path) -> None:
    command = system.command("app", 2, 4321, tmp_path)
    written = [file.read_text() for file in tmp_path.glob("*.json")]
    assert "4321" in " ".join([*command, *written])
    assert all("==" in requirement for requirement in system.requirements)
    assert len(system.paths) == 3


def test_two_proxies_are_measured_with_two_replicas_alone() -> None:
    (two,) = (system for system in SYSTEMS if system.name == "modelplex-2p")
    small = MEASUREMENTS["small"]
    assert [n for n in (1, 2, 3) if small.applies_to(two, n)] == [2]
    assert not any(MEASUREMENTS["overload"].applies_to(two, n) for n in (1, 2, 3))
