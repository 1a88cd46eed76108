"""Where something stands in a file, and what is found to be wrong with it."""

import re
from dataclasses import dataclass
from typing import NoReturn

from modelplex.errors import ConfigFileError, Problem

# A file with so many mistakes is another kind of file.
PROBLEMS_MAX = 100
MESSAGE_CHARACTERS_MAX = 600

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,60}")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file. `line` and `column` count from 1; `path` is that in its structure, empty for the whole."""

    file: str = "<none>"
    line: int = 0
    column: int = 0
    path: str = ""

    def below(self, key: object, line: int, column: int) -> "Place":
        """The place of an entry: of a mapping by its key, of a list by its number."""
        if isinstance(key, int) and not isinstance(key, bool):
            path = f"{self.path}[{key}]"
        elif isinstance(key, str) and _PLAIN_KEY.fullmatch(key):
            path = f"{self.path}.{key}" if self.path else key
        else:
            path = f"{self.path}[{shown(key)}]"
        return Place(self.file, line, column, path)

    def problem(self, message: str) -> Problem:
        if len(message) > MESSAGE_CHARACTERS_MAX:
            message = message[: MESSAGE_CHARACTERS_MAX - 1] + "…"
        return Problem(self.file, self.line, self.column, self.path, message)


class Findings:
    """What is wrong in a file, and what is ignored in it."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def wrong(self, place: Place, message: str) -> None:
        """Note a mistake. Raises `ConfigFileError` if they are too many to go on."""
        self.problems.append(place.problem(message))
        if len(self.problems) >= PROBLEMS_MAX:
            self.give_up(place, f"{PROBLEMS_MAX} mistakes; what follows was not read.")

    def ignored(self, place: Place, message: str) -> None:
        if len(self.warnings) < PROBLEMS_MAX:
            self.warnings.append(place.problem(message))

    def give_up(self, place: Place, message: str) -> NoReturn:
        """Raise `ConfigFileError` for something that makes it impossible to read on."""
        self.problems.append(place.problem(message))
        raise self.error()

    def error(self) -> ConfigFileError:
        """All mistakes as one error, in the order of the file."""
        return ConfigFileError(problems=sorted(self.problems, key=lambda p: (p.line, p.column)))


def shown(value: object) -> str:
    """The value as it is shown in a message: short, and on one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
