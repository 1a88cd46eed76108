"""What counts as a change."""

import os
from pathlib import Path

from modelplex.reload import modified


def test_python_files_below_the_folder_count_and_hidden_folders_do_not(tmp_path: Path) -> None:
    for name in ("a.py", "below/b.py", ".venv/c.py", "data.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    before = modified(tmp_path)
    assert {p.name for p in before} == {"a.py", "b.py"}
    os.utime(tmp_path / "a.py", (1, 1))
    assert modified(tmp_path) != before


def test_a_file_that_comes_or_goes_is_a_change(tmp_path: Path) -> None:
    before = modified(tmp_path)
    (tmp_path / "a.py").write_text("")
    there = modified(tmp_path)
    (tmp_path / "a.py").unlink()
    assert before != there
    assert before == modified(tmp_path)
