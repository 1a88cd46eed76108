"""The fenced blocks of README.md and of the pages in docs/."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

ADDRESS = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Block:
    """A fenced block. `line` is that of its fence, counted from 1."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def file_name(self) -> str:
        """The file that it is the text of, or an empty string."""
        found = re.match(r"# ([\w.-]+\.\w+)\n", self.text)
        return found[1] if found else ""

    def run(self, namespace: dict[str, Any], address: str) -> None:
        text = self.text.replace(ADDRESS, address) if address else self.text
        code = compile("\n" * self.line + text, str(self.page), "exec")  # so that tracebacks name the page's lines
        exec(code, namespace)


def blocks_of(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page, of all languages unless some are named."""
    blocks: list[Block] = []
    opened: tuple[int, str] | None = None
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number, line[3:].strip()
        else:
            assert line == "```", f"{page.name}:{number}: a block inside of a block"
            text = "".join(f"{inner}\n" for inner in lines[opened[0] : number - 1])
            blocks.append(Block(page, *opened, text))
            opened = None
    assert opened is None, f"{page.name}:{opened}: a block that does not end"
    return [block for block in blocks if not languages or block.language in languages]
