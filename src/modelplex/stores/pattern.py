"""Where the models of a store are: from the id of a model to the key of its file, and back."""

import re
from string import Formatter

from modelplex.config import check_model_id
from modelplex.errors import InvalidModelIdError

_PARTS = {
    "model_id": r"(?P<model_id>[^/]+)",
    "name": r"(?P<name>[^/@]+)",
    "version": r"(?P<version>[^/@]+)",
}
_PATH = r"(?P<model_id>.+)"


class Pattern:
    """A key with `{model_id}` in it, or with `{name}` and `{version}` for ids such as `shop@3`.

    Args:
        text: such as `{model_id}/model.pt`. One that ends with "/" means a folder. `{model_id:path}` takes ids that
            have slashes in them; the others refuse those.

    Raises ValueError if it is none.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        parsed = [rest for _, *rest in Formatter().parse(text) if rest[0] is not None]
        fields = [(field, spec) for field, spec, _ in parsed]
        names = [field for field, _ in fields]
        if set(names) not in ({"model_id"}, {"name", "version"}) or any(
            conversion or spec not in ("", "path") or (spec and field != "model_id")
            for field, spec, conversion in parsed
        ):
            raise ValueError(
                "A pattern has {model_id} or {model_id:path} in it, or both {name} and {version}, and nothing else in "
                f"braces; got {text!r}."
            )
        if text.startswith("/") or any(part in ("", ".", "..") for part in text.rstrip("/").split("/")):
            raise ValueError(f"A pattern is a path below the store's URL, without '.', '..' or '//'; got {text!r}.")
        self.is_versioned = "version" in names
        self._takes_paths = ("model_id", "path") in fields
        self._plain = text.replace("{model_id:path}", "{model_id}")
        self._regex = re.compile(self._as_regex())

    @property
    def prefix(self) -> str:
        """What all keys begin with."""
        return self.text.partition("{")[0]

    def key(self, model_id: str) -> str:
        """The key of a model. Raises `InvalidModelIdError`, which says why, if the id can have none."""
        check_model_id(model_id)
        if "/" in model_id and not self._takes_paths:
            raise InvalidModelIdError(
                f"The model ID {model_id!r} is a path, and models are at {self.text!r}: one part of a path. A store "
                "whose ids have slashes says {model_id:path}."
            )
        if any(part in (".", "..") for part in re.split("[/@]", model_id)):
            raise InvalidModelIdError(
                f"The model ID {model_id!r} would lead to another folder: no part of it may be '.' or '..'"
            )
        if not self.is_versioned:
            return self._plain.format(model_id=model_id)
        name, at, version = model_id.partition("@")
        if not (name and at and version) or "@" in version:
            raise InvalidModelIdError(f"The model ID {model_id!r} is to be a name and a version, such as 'shop@3'.")
        return self._plain.format(name=name, version=version)

    def model_id(self, key: str) -> str | None:
        """The model that a key belongs to; None if it belongs to none."""
        found = self._regex.match(key)
        if found is None:
            return None
        model_id = f"{found['name']}@{found['version']}" if self.is_versioned else found["model_id"]
        try:
            return model_id if self.key(model_id).rstrip("/") in (key, key[: found.end()].rstrip("/")) else None
        except InvalidModelIdError:
            return None

    def _as_regex(self) -> str:
        regex, seen = "", set()
        for text, field, spec, _ in Formatter().parse(self.text):
            regex += re.escape(text)
            if field in seen:
                regex += f"(?P={field})"
            elif field is not None:
                regex += _PATH if spec else _PARTS[field]
                seen.add(field)
        return regex if self.text.endswith("/") else regex + "$"
