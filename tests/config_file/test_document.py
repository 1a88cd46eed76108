"""YAML as values with places; what is no YAML, and what is more than anybody means."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelplex.config_file.document import BYTES_MAX, DEPTH_MAX, VALUES_MAX, Value, parse
from modelplex.config_file.places import PROBLEMS_MAX, Findings, Place
from modelplex.errors import ConfigFileError


def read(text: str) -> tuple[Value, list[str]]:
    findings = Findings()
    value = parse(text, "f", findings)
    return value, [str(problem) for problem in findings.problems]


def refused(text: str) -> str:
    with pytest.raises(ConfigFileError) as caught:
        parse(text, "f", Findings())
    assert len(caught.value.problems) >= 1
    return str(caught.value)


def test_each_value_knows_its_place_and_that_of_its_key() -> None:
    value, wrong = read("a: 1\nbig:\n  - x\n  - {deep key: true, b-c: null}\n")
    assert wrong == []
    assert value.plain() == {"a": 1, "big": ["x", {"deep key": True, "b-c": None}]}
    item = value.data["big"].data[1]
    assert item.place == Place("f", 4, 5, "big[1]")
    assert item.data["b-c"].place == Place("f", 4, 27, "big[1].b-c")
    assert item.data["b-c"].key_place == Place("f", 4, 22, "big[1].b-c")
    assert item.data["deep key"].place.path == "big[1]['deep key']"


def test_dates_and_odd_plain_scalars_are_text() -> None:
    value, wrong = read("[2024-01-31, =, 2024-99-99, 1_000, 0x10, .inf, ~, 'on', on, 1e3, '1e3']")
    assert (value.plain(), wrong) == (
        ["2024-01-31", "=", "2024-99-99", 1000, 16, float("inf"), None, "on", True, 1000.0, "1e3"],
        [],
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "a: !!python/object/apply:os.system [ls]",
            "f:1:4: a: The tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        ("a: !mine x", "f:1:4: a: The tag '!mine' is not known here: write a plain value."),
        ("a: !!binary aGk=", "is not known here"),
        ("a: !!set {x}", "is not known here"),
        ("a: !!int x", "f:1:4: a: 'x' is no int."),
        ("a: !!bool x", "f:1:4: a: 'x' is no bool."),
        (f"a: {'9' * 5000}", "is too long for a number; text needs quotes."),
        ("a: 1\nb: 2\na: 3", "f:3:1: a: The key 'a' is there already, on line 1."),
        ("{a: 1, ? [x] : 2}", "f:1:10: A key must be text."),
        ("<<: 5", "f:1:5: << takes over the entries of a mapping, or of a list of mappings."),
    ],
)
def test_what_cannot_be_is_noted_and_the_rest_is_read(text: str, says: str) -> None:
    value, (wrong,) = read(text)
    assert says in wrong
    assert isinstance(value.data, dict)


def test_a_mapping_takes_over_the_entries_of_others_and_its_own_count() -> None:
    value, wrong = read("[&a {x: 1, y: 1}, &b {x: 2, z: 2}, {<<: *a, y: 3}, {y: 3, <<: [*a, *b]}]")
    assert wrong == []
    assert value.plain()[2:] == [{"x": 1, "y": 3}, {"x": 1, "y": 3, "z": 2}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "f:1:1: The file is empty"),
        ("# nothing\n", "The file is empty"),
        ("a: b: c", "f:1:5: This is not YAML: mapping values are not allowed in this context."),
        ("a: [1, 2", "This is not YAML: while parsing a flow sequence"),
        ("a: 'x", "This is not YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("a: *b", "f:1:4: This is not YAML: found undefined alias"),
        ("a: 1\n---\nb: 1", "f:2:1: This is not YAML: expected a single document in the stream, but found another"),
        ("a: \x00", "This is not YAML: "),
        ("a:\n\t- x", "This is not YAML: "),
        ("\ud800", "f:1:1: The text is not Unicode"),
    ],
)
def test_what_is_no_yaml_is_one_problem_with_its_place(text: str, says: str) -> None:
    said = refused(text)
    assert says in said
    assert "\n" not in said


def alternating(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x" * (BYTES_MAX + 1), f"more than {BYTES_MAX} are not read"),
        (alternating(DEPTH_MAX + 1), f"deeper than {DEPTH_MAX} here"),
        ("[" * 500_000, f"deeper than {DEPTH_MAX} here"),
        ("{a: " * 200_000, f"deeper than {DEPTH_MAX} here"),
        ("&a [*a]", "or one is inside of itself"),
        ("&a [*a, *a]", "or one is inside of itself"),
        ("&a {<<: *a, b: *a}", "or one is inside of itself"),
        (
            "[&a " + alternating(40)[:40] + "x" + "]" * 40 + ", " + "[" * 40 + "*a" + "]" * 40 + "]",
            "Aliases nest deeper",
        ),
        ("\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}' if n else 'x'] * 9)}]" for n in range(20)), "more than"),
        (
            "\n".join(f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}' if n else '{}'] * 9)}]}}" for n in range(20)),
            "more than",
        ),
        (f"[{'1,' * VALUES_MAX}]", f"more than {VALUES_MAX} values"),
        ("\n".join(["a: 1"] * 1000), f"{PROBLEMS_MAX} mistakes; what follows was not read."),
    ],
)
def test_what_would_grow_without_bound_is_refused(text: str, says: str) -> None:
    """Each of these would take minutes, or the process with it, if it were not found before it is followed."""
    assert says in refused(text)


def test_as_deep_as_this_is_read() -> None:
    value, wrong = read(alternating(DEPTH_MAX))
    assert wrong == []
    depth, data = 0, value.plain()
    while data:
        depth, data = depth + 1, data[0]
    assert depth == DEPTH_MAX - 1


@pytest.mark.parametrize("number", ["1:" * 200_000 + "1", "0x" + "f" * 500_000, "9" * 500_000])
def test_a_number_that_would_take_long_to_read_is_none(number: str) -> None:
    assert "is too long for a number" in read(f"[{number}]")[1][0]


# Python writes 7F as it is, and YAML does not take it.
_text = st.text(st.characters(codec="utf-8", exclude_characters="\x7f") | st.sampled_from("<=.\\u🙂"), max_size=8)
_numbers = st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | _numbers | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=12,
)


@given(_json)
@example([1e16, 1e-7, -2.5e300, "1e3"])
@example({"<<": {"\\ud83d\\ude00": "🙂"}})
def test_json_is_read_as_what_it_says(data: Any) -> None:
    value, wrong = read(json.dumps(data))
    assert (wrong, value.plain()) == ([], data)


@settings(max_examples=300)
@given(st.text(max_size=60) | st.text("ab:-[]{}&*<!|>?'\"#%,\n\t 01", max_size=40))
def test_whatever_the_text_is_it_is_a_value_or_a_problem(text: str) -> None:
    findings = Findings()
    with contextlib.suppress(ConfigFileError):
        assert parse(text, "f", findings).place.line >= 1
    assert all(problem.file == "f" and problem.line >= 1 for problem in findings.problems)
