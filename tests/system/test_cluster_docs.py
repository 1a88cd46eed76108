"""The page about clusters on a real Ray cluster: its commands and its Python, one after the other."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, blocks_of
from ray_nodes import RayNodes, ray_nodes

pytestmark = [pytest.mark.system, pytest.mark.long]

PAGE = ROOT / "docs" / "clusters.md"


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_nodes() as found:
        yield found


class Machine:
    """One of the cluster, in a folder with the files of the page."""

    def __init__(self, nodes: RayNodes, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "RAY_ADDRESS": nodes.cluster.address, "TMPDIR": str(folder)}
        for block in blocks_of(PAGE, "python", "yaml"):
            text = block.text.replace("port: 8000", "port: 0")  # that may be somebody else's here
            (folder / block.file_name).write_text(text)

    def run(self, *words: str, code: int = 0, **env_vars: str) -> str:
        environment = {**self.environment, **env_vars}
        command = [sys.executable, *words]
        ended = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def modelplex(self, *words: str, code: int = 0, **env_vars: str) -> str:
        return self.run("-m", "modelplex.cli", *words, code=code, **env_vars)


@pytest.fixture
def machine(nodes: RayNodes, tmp_path: Path) -> Iterator[Machine]:
    found = Machine(nodes, tmp_path)
    yield found
    found.modelplex("shutdown", "--system", "ray")


def packages() -> set[str]:
    """The folders that the head keeps."""
    from ray.experimental import internal_kv

    return {key.decode() for key in internal_kv._internal_kv_list("gcs://")}


def test_what_the_page_says_is_so(machine: Machine) -> None:
    lines = [line for block in blocks_of(PAGE, "console") for line in block.text.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("modelplex ")]
    (deploy,) = [words for words in commands if words[0] == "deploy"]
    said = machine.modelplex(*deploy)
    assert "Deployed: shop" in said
    assert "Warning" not in said
    assert "Recommender: HEALTHY (4 RUNNING)" in machine.modelplex("status", "--system", "ray")
    assert "host: 0.0.0.0" in machine.modelplex("config", "--system", "ray")
    for block in blocks_of(PAGE, "py"):
        machine.run("-c", block.text)
    (delete,) = [words for words in commands if words[0] == "delete"]
    machine.modelplex(*delete)
    assert "no applications" in machine.modelplex("status", "--system", "ray")


def test_a_folder_that_was_uploaded_is_kept_while_no_process_uses_it(machine: Machine) -> None:
    before = packages()
    (Path(machine.folder) / "other.txt").touch()  # so that it is another folder
    machine.modelplex("deploy", "shop.yaml", RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S="0")
    (uploaded,) = packages() - before
    machine.modelplex("delete", "shop", "--system", "ray")
    assert uploaded in packages()
