"""What type hints of options say about values, and how that is said to people."""

import collections.abc
import dataclasses
import functools
import types
import typing
from typing import Any

from modelplex.config_file.document import Value
from modelplex.config_file.places import shown

_NAMES = {int: "an integer", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
_LISTS = (list, tuple, collections.abc.Sequence)
_DICTS = (dict, collections.abc.Mapping)


def of(kind: type[Any]) -> dict[str, Any]:
    """The hints of a dataclass's fields."""
    hashable: Any = kind
    return _of(hashable)


@functools.cache
def _of(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def parts(hint: Any) -> list[Any]:
    """The hints that a union is made of; a hint that is none is its only part."""
    return list(typing.get_args(hint)) if typing.get_origin(hint) in (typing.Union, types.UnionType) else [hint]


def section(hint: Any) -> type[Any] | None:
    """The dataclass that a value of this hint is made into, if there is one."""
    return next((part for part in parts(hint) if dataclasses.is_dataclass(part)), None)  # type: ignore[return-value]


def is_list(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) in _LISTS


def is_mapping(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) in _DICTS


def misfits(value: Value, hint: Any) -> list[tuple[Value, Any]]:
    """The values, this one or some inside of it, that are not as their hint says, each with that hint."""
    found = [_misfits_of_part(value, part) for part in parts(hint)]
    if not all(found):
        return []
    # Those inside of a list or mapping say more than that the whole is wrong.
    return next((wrong for wrong in found if wrong[0][0] is not value), [(value, hint)])


def _misfits_of_part(value: Value, hint: Any) -> list[tuple[Value, Any]]:
    data, origin, arguments = value.data, typing.get_origin(hint) or hint, typing.get_args(hint)
    inner: list[tuple[Value, Any]] = []
    if origin in _LISTS:
        fits = isinstance(data, list)
        inner = [(item, arguments[0]) for item in data] if fits and arguments else []
    elif origin in _DICTS or dataclasses.is_dataclass(origin):
        fits = isinstance(data, dict) and (not arguments or arguments[0] is not str or all(map(_is_text, data)))
        inner = [(item, arguments[1]) for item in data.values()] if fits and arguments else []
    elif origin is float:
        fits = isinstance(data, int | float) and not isinstance(data, bool)
    elif origin is int:
        fits = isinstance(data, int) and not isinstance(data, bool)
    else:
        fits = origin is Any or (isinstance(origin, type) and origin in _NAMES and isinstance(data, origin))
    if not fits:
        return [(value, hint)]
    return [wrong for item, each in inner for wrong in misfits(item, each)]


def _is_text(key: object) -> bool:
    return isinstance(key, str)


def described(hint: Any) -> str:
    """What a value has to be, in words."""
    words = [_described_part(part) for part in parts(hint)]
    return " or ".join(dict.fromkeys(word for word in words if word))


def _described_part(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in _LISTS:
        return "a list" if not arguments or arguments[0] is Any else f"a list, each {described(arguments[0])}"
    if origin in _DICTS or dataclasses.is_dataclass(origin):
        return "a mapping of text to text" if arguments == (str, str) else "a mapping"
    return _NAMES.get(origin, "")  # code cannot be written in a file: its import path, which is text, can


def complaint(value: Value, hint: Any) -> str:
    """What is wrong with a value that is not as its hint says, and how to put it right where that is known."""
    name = value.place.path.rpartition(".")[2] or "The file"
    plain, wanted = value.plain(), parts(hint)
    text = f"{name} must be {described(hint)}, got {shown(plain)}."
    if str in wanted and isinstance(plain, int | float):
        text += " In quotes it is text."
    elif isinstance(plain, str) and {int, float} & set(wanted) and _is_number(plain):
        text += " Without quotes it is a number."
    elif isinstance(plain, dict) and any((typing.get_origin(part) or part) in _DICTS for part in wanted):
        text += " The keys must be text."
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
