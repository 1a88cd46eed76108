"""Programs as they are written for Ray Serve, with another import: each is run, and checks its own answers."""

import ast
import re
from pathlib import Path

import pytest
from served import free_port, run_script, serving

pytestmark = pytest.mark.system

PROGRAMS = sorted((Path(__file__).parent / "ray_style").glob("*.py"))
END = "the program came to its end"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_a_program_runs_with_the_import_changed(program: Path, tmp_path: Path) -> None:
    """On a port of its own in place of 8000, for which a program that does not call `serve.start` gets a line more."""
    port, text = free_port(), program.read_text()
    if "serve.start(" not in text:
        text = f"from modelplex import serve; serve.start(http_options=dict(port={port}))\n{text}"
    text = re.sub(r"\b8000\b", str(port), text)
    assert run_script(tmp_path, f'{text}\nprint("{END}")\n').splitlines()[-1] == END


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_a_program_uses_what_ray_serve_has(program: Path) -> None:
    """Nothing is imported of Modelplex but `serve` and what is below it, so that the import alone is what differs."""
    found = []
    for node in ast.walk(ast.parse(program.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    ours = [name for name in found if name.startswith("modelplex")]
    assert ours
    assert not [name for name in ours if not name.startswith("modelplex.serve")]


@pytest.mark.parametrize(
    ("builder", "arguments", "answer"),
    [("plain_builder", ["word=brook"], b"brook"), ("checked_builder", ["word=brook", "times=3"], b"brookbrookbrook")],
)
def test_a_builder_gets_its_arguments_from_the_command_line(builder: str, arguments: list[str], answer: bytes) -> None:
    with serving(f"builders:{builder}", PROGRAMS[0].parent, arguments=arguments) as served:
        assert served.call().body == answer
