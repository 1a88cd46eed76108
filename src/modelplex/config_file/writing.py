"""Values as YAML text that this package's reader takes for the same values."""

import re
from functools import cache
from typing import Any

from modelplex.config_file.document import EXPONENT

_WIDE = 10_000  # characters; no line is broken, so that a comment may be put before each


def as_yaml(value: Any) -> str:
    """The text of plain values, their keys in the order that they have."""
    import yaml

    text: str = yaml.dump(value, Dumper=_dumper(), sort_keys=False, width=_WIDE)
    return text


@cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
        def ignore_aliases(self, data: Any) -> bool:
            return True

    # Text that our reader would take for a number gets quotes: PyYAML itself knows 1.5e+3 for one, but not 12e4.
    Dumper.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(f"^(?:{EXPONENT.pattern})$"), list("-+0123456789")
    )
    return Dumper
