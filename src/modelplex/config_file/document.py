"""YAML text as values that know their places. Nothing in it can name code, grow without bound, or nest without end."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modelplex.config_file.places import Findings, Place, shown

BYTES_MAX = 2**20
DEPTH_MAX = 64
VALUES_MAX = 100_000  # with what aliases repeat

# Longer numbers take long to read, and nobody means them.
NUMBER_CHARACTERS_MAX = 100

BROKEN = object()  # in place of a value that could not be read; what is wrong with it has been said

# Numbers of JSON that YAML 1.1 takes for text, and JSON's two escapes for one character, which YAML does not know.
EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
_PAIR = re.compile(r"(\\\\)|\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")

_TAG = "tag:yaml.org,2002:"
_TEXTS = {_TAG + name for name in ("str", "timestamp", "value", "merge")}  # dates stay text, as JSON has none
_NUMBERS = {_TAG + "int", _TAG + "float"}
_SCALARS = _NUMBERS | {_TAG + "bool", _TAG + "null"}


@dataclass(frozen=True, slots=True)
class Value:
    """A value and where it is written.

    Attributes:
        place: of the value.
        key_place: of its key; of the value itself where there is none.
        data: a scalar, a list of values, a dict of values by key, or `BROKEN`.
    """

    place: Place
    key_place: Place
    data: Any

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.data, dict):
            return {key: value.plain() for key, value in self.data.items()}
        if isinstance(self.data, list):
            return [value.plain() for value in self.data]
        return None if self.data is BROKEN else self.data


def parse(text: str, file: str, findings: Findings) -> Value:
    """The value that the text is, with mistakes inside of it noted.

    Raises `ConfigFileError` for what is no YAML, or more than anybody means to configure.
    """
    import yaml

    start = Place(file, 1, 1)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        findings.give_up(start, f"The text is not Unicode: {error.reason} at character {error.start}.")
    if size > BYTES_MAX:
        findings.give_up(start, f"The file has {size} bytes; more than {BYTES_MAX} are not read.")
    if text.lstrip().startswith(("{", "[", '"')):
        text = _PAIR.sub(_one_escape, text)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_depth(yaml.parse(text, Loader=loader), start, findings)
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = start if mark is None else Place(file, mark.line + 1, mark.column + 1)
        what = ", ".join(part for part in (error.context, error.problem) if part)
        findings.give_up(place, f"This is not YAML: {what}.")
    except yaml.YAMLError as error:
        findings.give_up(start, f"This is not YAML: {' '.join(str(error).split())}.")
    if node is None:
        findings.give_up(start, "The file is empty; it takes a mapping with the key applications.")
    return _Converter(findings, yaml.constructor.SafeConstructor()).value(node, start, None, 0)


def _one_escape(found: "re.Match[str]") -> str:
    if found[1]:
        return found[1]  # a backslash that is text
    return f"\\U{0x10000 + (int(found[2], 16) - 0xD800) * 0x400 + int(found[3], 16) - 0xDC00:08x}"


def _check_depth(events: Iterator[Any], start: Place, findings: Findings) -> None:
    """So that nothing that recurses sees text that nests without end."""
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                mark = event.start_mark
                place = Place(start.file, mark.line + 1, mark.column + 1)
                findings.give_up(place, f"Lists and mappings nest deeper than {DEPTH_MAX} here.")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Converter:
    """Turns YAML's nodes into values. Aliases are written out, as often as they are used, up to a bound."""

    def __init__(self, findings: Findings, constructor: Any) -> None:
        self.findings = findings
        self.constructor = constructor
        self.values = 0

    def value(self, node: Any, place: Place, key_place: Place | None, depth: int) -> Value:
        self._count(place, depth)
        kind = node.tag.removeprefix(_TAG)
        data: Any = BROKEN
        if node.id == "mapping" and kind == "map":
            data = self._entries(node, place, depth)
        elif node.id == "sequence" and kind == "seq":
            marks = ((item, item.start_mark) for item in node.value)
            places = ((item, place.below(n, m.line + 1, m.column + 1)) for n, (item, m) in enumerate(marks))
            data = [self.value(item, below, below, depth + 1) for item, below in places]
        elif node.id == "scalar":
            data = self._scalar(node, place)
        else:
            self.findings.wrong(place, f"The tag {shown(node.tag)} is not known here: write a plain value.")
        return Value(place, key_place or place, data)

    def _count(self, place: Place, depth: int) -> None:
        self.values += 1
        if self.values > VALUES_MAX:
            self.findings.give_up(place, f"The file has more than {VALUES_MAX} values, with what its aliases repeat.")
        if depth > DEPTH_MAX:
            self.findings.give_up(place, f"Aliases nest deeper than {DEPTH_MAX} here, or one is inside of itself.")

    def _scalar(self, node: Any, place: Place) -> Any:
        if node.tag in _TEXTS:
            is_number = not node.style and len(node.value) <= NUMBER_CHARACTERS_MAX and EXPONENT.fullmatch(node.value)
            return float(node.value) if is_number else node.value
        if node.tag not in _SCALARS:
            self.findings.wrong(place, f"The tag {shown(node.tag)} is not known here: write a plain value.")
            return BROKEN
        if node.tag in _NUMBERS and len(node.value) > NUMBER_CHARACTERS_MAX:
            self.findings.wrong(place, f"{shown(node.value)} is too long for a number; text needs quotes.")
            return BROKEN
        try:
            return self.constructor.construct_object(node)
        except (ValueError, LookupError, OverflowError):  # of a tag that says what the text is not, as !!int x
            self.findings.wrong(place, f"{shown(node.value)} is no {node.tag.removeprefix(_TAG)}.")
            return BROKEN

    def _entries(self, node: Any, place: Place, depth: int) -> dict[Any, Value]:
        """The entries of a mapping: its own, and those that `<<` takes over and that it does not have itself."""
        own: dict[Any, Value] = {}
        merged: dict[Any, Value] = {}
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            if key_node.tag == _TAG + "merge":
                merged |= self._merged(value_node, place, depth)
                continue
            if key_node.id != "scalar":
                self.findings.wrong(
                    Place(place.file, mark.line + 1, mark.column + 1, place.path), "A key must be text."
                )
                continue
            written = place.below(key_node.value, mark.line + 1, mark.column + 1)
            if (key := self._scalar(key_node, written)) is BROKEN:
                continue
            mark = value_node.start_mark
            below = place.below(key_node.value, mark.line + 1, mark.column + 1)
            value = self.value(value_node, below, written, depth + 1)
            if key in own:
                self.findings.wrong(
                    written, f"The key {shown(key)} is there already, on line {own[key].key_place.line}."
                )
            else:
                own[key] = value
        return merged | own

    def _merged(self, node: Any, place: Place, depth: int) -> dict[Any, Value]:
        nodes = node.value if node.id == "sequence" else [node]
        found: dict[Any, Value] = {}
        for other in reversed(nodes):  # the first one counts
            self._count(place, depth + 1)
            if other.id != "mapping":
                mark = other.start_mark
                where = Place(place.file, mark.line + 1, mark.column + 1, place.path)
                self.findings.wrong(where, "<< takes over the entries of a mapping, or of a list of mappings.")
                continue
            found |= self._entries(other, place, depth + 1)
        return found
