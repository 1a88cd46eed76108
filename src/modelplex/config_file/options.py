"""Options objects made of what a file says: each value that they refuse is noted at its place.

The rules are those of the options' own classes, which raise for the first thing that is wrong. So one is made again
without what it refused, until it refuses nothing.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelplex.config_file import hints
from modelplex.config_file.document import BROKEN, Value
from modelplex.config_file.places import Findings, Place, shown

Make = Callable[[dict[str, Any]], Any]


def entries(
    value: Value, known: Iterable[str], findings: Findings, *, ignored: Mapping[str, str] | None = None
) -> dict[str, Value]:
    """The entries of a mapping that are known. Others are noted, with what is meant; of some, that they are ignored.

    Args:
        ignored: why, by key.
    """
    if value.data is BROKEN:
        return {}
    if not isinstance(value.data, dict):
        findings.wrong(value.place, f"This must be a mapping, got {shown(value.plain())}.")
        return {}
    names, found = list(known), {}
    for key, entry in value.data.items():
        if key in names:
            found[key] = entry
        elif ignored and key in ignored:
            findings.ignored(entry.key_place, f"{key} is ignored: {ignored[key]}.")
        else:
            findings.wrong(entry.key_place, unknown("key", key, names))
    return found


def unknown(what: str, name: object, names: list[str]) -> str:
    """That there is no such thing, and what may have been meant."""
    close = difflib.get_close_matches(str(name)[:100], names, 1)
    rest = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(names) or 'none'}."
    return f"There is no {what} {shown(name)}. {rest}"


def missing(value: Value, given: Mapping[str, Value], required: Iterable[str], findings: Findings) -> bool:
    """Whether an entry that must be there is not, which is noted unless the whole value is wrong already."""
    absent = [name for name in required if name not in given]
    if isinstance(value.data, dict):
        for name in absent:
            findings.wrong(value.place, f"{name} is missing.")
    return bool(absent)


def fitting(given: dict[str, Value], kind: type[Any], findings: Findings, make: Make | None = None) -> dict[str, Value]:
    """Those of the values whose types are as the hints of the dataclass say; the others are noted.

    Args:
        make: if it refuses the value by name, its message is taken, since it says more.
    """
    known, found = hints.of(kind), {}
    for name, value in given.items():
        if _is_broken(value):
            continue
        wrong = hints.misfits(value, known[name])
        for at, hint in wrong:
            said = _refusal(make, {name: value.plain()}) if make is not None and at is value else ""
            findings.wrong(at.place, said if re.search(rf"\b{name}\b", said) else hints.complaint(at, hint))
        if not wrong:
            found[name] = value
        elif isinstance(value.data, list) and all(any(at is item for item in value.data) for at, _ in wrong):
            bad = [id(at) for at, _ in wrong]  # the other items may have other mistakes
            found[name] = dataclasses.replace(value, data=[item for item in value.data if id(item) not in bad])
    return found


def made(value: Value, kind: type[Any], findings: Findings, make: Make | None = None) -> Any:
    """An options object of a mapping, or None if it cannot be made of what is left without its mistakes.

    Args:
        kind: its dataclass.
        make: makes it, or something that has it, of a dict; the dataclass itself unless given.
    """
    given = entries(value, hints.of(kind), findings)
    required = [f.name for f in dataclasses.fields(kind) if _is_required(f)]
    if missing(value, given, required, findings):
        return None
    construct: Make = make or (lambda options: kind(**options))
    given = fitting(given, kind, findings, construct)
    return None if set(required) - set(given) else made_of(given, value.place, findings, construct)


def made_of(given: dict[str, Value], place: Place, findings: Findings, make: Make) -> Any:
    """The same of entries, all of which are known and of the right type."""
    left = {name: value.plain() for name, value in given.items()}
    while said := _refusal(make, left):
        name = _culprit(said, left, make)
        if name is None:
            findings.wrong(place, said)
            return None
        _note(given[name], said, findings, lambda item, name=name: make({**left, name: item}))  # type: ignore[misc]
        del left[name]
    return make(left)


def _note(value: Value, said: str, findings: Findings, make: Callable[[Any], Any]) -> None:
    """Note what is wrong with the value; with each of its items, if it is a list and they are what is wrong."""
    if isinstance(value.data, list):
        refused = [(item, why) for item in value.data if (why := _refusal(make, [item.plain()]))]
        for item, why in refused:
            findings.wrong(item.place, why)
        if refused:
            return
    findings.wrong(value.place, said)


def _refusal(make: Callable[[Any], Any], given: Any) -> str:
    """What is said against it; empty if nothing is."""
    try:
        make(given)
    except Exception as error:  # noqa: BLE001 - whatever a check stumbles over, the file's author has to change the value
        return str(error) or type(error).__name__
    return ""


def _culprit(said: str, given: dict[str, Any], make: Make) -> str | None:
    """The option that a message is about: the first that it names, or else the first without which it is not said."""
    words: list[str] = re.findall(r"\w+", said.partition(", got")[0])
    named = [word for word in words if word in given]
    if named:
        return named[0]
    rest = ((name, {n: v for n, v in given.items() if n != name}) for name in given)
    return next((name for name, others in rest if _refusal(make, others) != said), None)


def _is_broken(value: Value) -> bool:
    """Whether part of it could not be read, which has been noted."""
    if isinstance(value.data, dict | list):
        return any(map(_is_broken, value.data.values() if isinstance(value.data, dict) else value.data))
    return value.data is BROKEN


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
