"""Which GPUs there are, and what is said when they are too few."""

import os
import stat
from pathlib import Path

import pytest

from modelplex.core.gpus import Gpus
from modelplex.engines import gpu_devices


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the variable, the driver, and the program."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu_devices, "DRIVER_FOLDER", tmp_path / "driver")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")


def nvidia_smi(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("0,1", ["0", "1"]),
        (" 3 , 1", ["3", "1"]),
        ("GPU-8932f937,MIG-GPU-b/1/0", ["GPU-8932f937", "MIG-GPU-b/1/0"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("1,,2", ["1"]),
        ("2,2", ["2"]),
    ],
)
def test_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch, given: str, ids: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    gpu_devices.DRIVER_FOLDER.mkdir()
    (gpu_devices.DRIVER_FOLDER / "0000:01:00.0").mkdir()
    assert gpu_devices.find() == ids


def test_those_that_the_driver_has() -> None:
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (gpu_devices.DRIVER_FOLDER / name).mkdir(parents=True)
    assert gpu_devices.find() == ["0", "1"]


def test_those_that_the_program_lists(tmp_path: Path) -> None:
    nvidia_smi(tmp_path, 'printf "GPU 0: A100 (UUID: GPU-a)\\n  MIG 1g.5gb\\nGPU 1: A100 (UUID: GPU-b)\\n"')
    assert gpu_devices.find() == ["0", "1"]


def test_a_machine_without_any() -> None:
    assert gpu_devices.find() == []


@pytest.mark.parametrize("script", ["exit 9", "exec sleep 60"], ids=["fails", "hangs"])
def test_a_program_that_does_not_answer_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, script: str
) -> None:
    monkeypatch.setattr(gpu_devices, "NVIDIA_SMI_TIMEOUT_S", 0.2)
    nvidia_smi(tmp_path, script)
    assert gpu_devices.find() == []
    assert "nvidia-smi does not say" in caplog.text


def test_what_is_set_for_a_replica() -> None:
    assert gpu_devices.variables(None, {}) == {}
    assert gpu_devices.variables(0, {}) == {"CUDA_VISIBLE_DEVICES": ""}
    assert gpu_devices.variables(0.5, {"GPU-a": 0.5}) == {"CUDA_VISIBLE_DEVICES": "GPU-a"}
    assert gpu_devices.variables(2, {"3": 1.0, "1": 1.0}) == {"CUDA_VISIBLE_DEVICES": "3,1"}


def test_too_few_says_how_many_there_are_and_who_has_them() -> None:
    gpus = Gpus(["0", "1"])
    gpus.adopt("app_E#b", {"1": 0.5})
    gpus.adopt("app_E#a", {"0": 1.0})
    text = str(gpu_devices.too_few("app_D#c", 2, gpus))
    assert "app_D#c wants num_gpus=2, and of the 2 GPUs" in text
    assert text.endswith("app_E#a has 0; app_E#b has 0.5 of 1.")


def test_too_few_because_of_ones_own_says_what_helps() -> None:
    gpus = Gpus(["0"])
    gpus.adopt("app_D#old", {"0": 1.0})
    assert "max_surge_percent=0" in str(gpu_devices.too_few("app_D#new", 1, gpus))
    assert "nobody has any" in str(gpu_devices.too_few("app_D#new", 1, Gpus()))
