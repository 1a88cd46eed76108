"""Where the models of a store are: from the id of a model to the key of its file, and back."""

import re

from modelplex.config import check_model_id
from modelplex.errors import InvalidModelIdError

_FIELD = re.compile(r"\{[^{}]*\}|[{}]")
_ID = "{model_id}"
_PATH = "{model_id:path}"


class Pattern:
    """A key with `{model_id}` in it.

    Args:
        text: such as `{model_id}/model.pt`. One that ends with "/" means a folder. `{model_id:path}` takes ids that
            have slashes in them; `{model_id}` refuses those.

    Raises ValueError if it is none.
    """

    def __init__(self, text: str) -> None:
        fields = set(_FIELD.findall(text))
        if fields not in ({_ID}, {_PATH}):
            raise ValueError(
                "A pattern has {model_id} or {model_id:path} in it, or {name} and {version}, and nothing else in "
                f"braces; got {text!r}."
            )
        check_path("A pattern", text)
        self._text = text
        (self._field,) = fields
        self._takes_paths = self._field == _PATH
        parts = map(re.escape, text.split(self._field))
        regex = f"({'.+' if self._takes_paths else '[^/]+'})".join([next(parts), r"\1".join(parts)])
        self._regex = re.compile(regex if text.endswith("/") else regex + "$")

    @property
    def prefix(self) -> str:
        """What all keys begin with."""
        return self._text.partition("{")[0]

    def key(self, model_id: str) -> str:
        """The key of a model. Raises `InvalidModelIdError`, which says why, if the id can have none."""
        check_model_id(model_id)
        if "/" in model_id and not self._takes_paths:
            raise InvalidModelIdError(
                f"The model ID {model_id!r} is a path, and models are at {self._text!r}: one part of a path. A store "
                f"whose ids have slashes says {_PATH}."
            )
        if any(part in (".", "..") for part in model_id.split("/")):
            raise InvalidModelIdError(
                f"The model ID {model_id!r} would lead to another folder: no part of it may be '.'"
            )
        return self._text.replace(self._field, model_id)

    def model_id(self, key: str) -> str | None:
        """The model that a key belongs to; None if it belongs to none."""
        found = self._regex.match(key)
        if found is None:
            return None
        try:
            self.key(found[1])
        except InvalidModelIdError:
            return None
        return found[1]


def check_path(what: str, text: str) -> None:
    """Raise ValueError if this is no path below a store's URL."""
    if text.startswith("/") or any(part in ("", ".", "..") for part in text.removesuffix("/").split("/")):
        raise ValueError(f"{what} is a path below the store's URL, without '.', '..' or '//'; got {text!r}.")
