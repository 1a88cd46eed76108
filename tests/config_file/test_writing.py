"""What is written as YAML is read as the same."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from modelplex.config_file.document import parse
from modelplex.config_file.places import Findings
from modelplex.config_file.writing import as_yaml

NUMBER_LIKE = st.from_regex(r"[-+0-9eE.xo:_]{1,20}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | NUMBER_LIKE
SCALARS = TEXTS | st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False)


@given(st.dictionaries(TEXTS, SCALARS | st.lists(SCALARS), min_size=1))
@example({"id": "12e34"})
@example({"id": "1_000"})
@example({"id": "2027-01-31T00:00:00Z"})
@example({"id": "=", "<<": "~"})
def test_whatever_is_written_is_read_again(value: dict[str, Any]) -> None:
    findings = Findings()
    assert parse(as_yaml(value), "f", findings).plain() == value
    assert not findings.problems


def test_no_line_is_broken() -> None:
    assert as_yaml({"a": "word " * 500}).count("\n") == 1
