"""Versions of models in a store: `shop@3`, and what `shop@latest`, `shop@stable` and `shop` stand for."""

import asyncio
import json
import re
from typing import Any

from modelplex.config import check_model_id
from modelplex.errors import AliasNotSetError, ModelNotFoundError, StoreConfigError, StoreError
from modelplex.stores.folder import FolderSource
from modelplex.stores.pattern import check_path
from modelplex.stores.source import FileChangedError, Source

# Tags that have a meaning of their own, so that no version can be called so.
LATEST = "latest"
DEFAULT = "default"

ALIASES_BYTES_MAX = 64 * 1024

# A file that changes while it is read is read again, so often.
READ_TRIES = 3

# What may be part of a key. No "/" and no "@", and it cannot be ".", ".." or an option of a command line.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]*")
_FIELD = re.compile(r"\{[^{}]*\}|[{}]")


class Versions:
    """Finds the version that an id stands for, by the keys of a source and a file of aliases.

    Args:
        source: has the files.
        pattern: the key of a version's file, or of its folder if it ends with "/", with `{name}` and, after it,
            `{version}`: "{name}/{version}/model.safetensors".
        aliases: the key of a model's file of aliases, with `{name}`: a JSON object of tags and versions,
            {"stable": "3"}. None if there are no such files.

    Raises ValueError if a pattern cannot be.
    """

    def __init__(self, source: Source, pattern: str, aliases: str | None = "{name}/aliases.json") -> None:
        if _FIELD.findall(pattern) != ["{name}", "{version}"]:
            raise ValueError(f"The pattern of versions has {{name}} and then {{version}}, each once, got {pattern!r}.")
        if aliases is not None and set(_FIELD.findall(aliases)) != {"{name}"}:
            raise ValueError(f"The pattern of alias files has {{name}} and no other field, got {aliases!r}.")
        check_path("The pattern of versions", pattern)
        before, _, rest = pattern.partition("{name}")
        self._before = before
        self._between, _, self._after = rest.partition("{version}")
        if not self._between:
            raise ValueError(f"There must be something between {{name}} and {{version}}, got {pattern!r}.")
        self._source = source
        self._aliases = aliases
        before, between, after = map(re.escape, (self._before, self._between, self._after))
        end = "" if pattern.endswith("/") else "$"
        self._regex = re.compile(f"{before}({_NAME.pattern}){between}({_NAME.pattern}){after}{end}")

    @property
    def prefix(self) -> str:
        """What all keys begin with."""
        return self._before

    async def resolve(self, model_id: str) -> str:
        """The version that the id stands for now, as `name@version`.

        `@latest` is the highest version that has a file, numbers in it compared as numbers. Another tag is a version
        itself, or else one of the file of aliases. A bare name is `@default` of that file, or else `@latest`.

        Raises `InvalidModelIdError`, `ModelNotFoundError` if there is no such version, `StoreConfigError` if the file
        of aliases is malformed, and `StoreError`.
        """
        name, tag = self._split(model_id)
        if tag == LATEST:
            return await self._latest(name)
        if tag and tag != DEFAULT and await self._exists(self._key(name, tag)):
            return f"{name}@{tag}"
        version = (await self._read_aliases(name)).get(tag or DEFAULT)
        if version is not None:
            return f"{name}@{version}"
        if tag:
            raise ModelNotFoundError(f"There is no version or alias {tag!r} of model {name!r}.")
        return await self._latest(name)

    async def set_alias(self, alias: str, version: str) -> None:
        """Have `name@alias`, or `name` for its default, stand for `name@version` from now on.

        Of several who do this to one model at the same time, one may undo what another has done.
        Raises `InvalidModelIdError`, `ModelNotFoundError` if there is no such version, and `AliasNotSetError` if these
        cannot be alias and version, or the store is none that can be written to: only folders are.
        """
        name, tag = self._split(alias)
        of, wanted = self._split(version if "@" in version else f"{name}@{version}")
        if of != name:
            raise AliasNotSetError(f"{alias!r} can only stand for a version of {name!r}, not for {version!r}.")
        if tag == LATEST:
            raise AliasNotSetError(f"{alias!r} cannot be set: {LATEST!r} is found out by itself.")
        if not self._is_version(wanted):
            raise AliasNotSetError(f"{alias!r} cannot stand for {version!r}, which is no version.")
        if self._aliases is None or not isinstance(self._source, FolderSource):
            raise AliasNotSetError(f"Aliases of {self._source.name} are set in the store itself.")
        if not await self._exists(self._key(name, wanted)):
            raise ModelNotFoundError(f"There is no version {wanted!r} of model {name!r}.")
        if tag and tag != DEFAULT and await self._exists(self._key(name, tag)):
            raise AliasNotSetError(f"{alias!r} is a version itself, and cannot be an alias.")
        aliases = await self._read_aliases(name) | {tag or DEFAULT: wanted}
        data = json.dumps(aliases, indent=2).encode() + b"\n"
        if len(data) > ALIASES_BYTES_MAX:
            raise AliasNotSetError(f"Model {name!r} has too many aliases: they may take {ALIASES_BYTES_MAX} bytes.")
        await asyncio.to_thread(self._source.write, self._aliases.replace("{name}", name), data)

    def key(self, model_id: str) -> str:
        """The key of a version's file. Raises `ModelNotFoundError` if the id names no version."""
        name, version = self._split(model_id)
        if not self._is_version(version):
            raise ModelNotFoundError(f"{model_id!r} names no version: that would be {name}@3, for example.")
        return self._key(name, version)

    def model_id(self, key: str) -> str | None:
        """The version that a key belongs to; None if it belongs to none."""
        found = self._regex.match(key)
        return None if found is None or not self._is_version(found[2]) else f"{found[1]}@{found[2]}"

    async def versions(self, name: str) -> list[str]:
        """The versions of a model, highest last; nothing if there is no such model."""
        prefix, found = self._before + name + self._between, set()
        aliases = None if self._aliases is None else self._aliases.replace("{name}", name)
        async for key in self._source.list(prefix):
            if key != aliases and (version := self._version_in(key.removeprefix(prefix))) is not None:
                found.add(version)
        return sorted(found, key=natural)

    async def _latest(self, name: str) -> str:
        if not (versions := await self.versions(name)):
            raise ModelNotFoundError(f"There is no version of model {name!r}.")
        return f"{name}@{versions[-1]}"

    def _version_in(self, rest: str) -> str | None:
        """The version that the rest of a key, after its prefix, is of."""
        if self._after.endswith("/"):
            version, after, _ = rest.partition(self._after)
        else:
            version, after = rest.removesuffix(self._after), self._after if rest.endswith(self._after) else ""
        return version if after == self._after and self._is_version(version) else None

    def _is_version(self, version: str) -> bool:
        # With "{name}-{version}", "shop-17-3" is version 3 of "shop-17", not version "17-3" of "shop".
        is_name = _NAME.fullmatch(version) is not None and version not in (LATEST, DEFAULT)
        return is_name and (self._between == "/" or self._between not in version)

    def _key(self, name: str, version: str) -> str:
        return self._before + name + self._between + version + self._after

    def _split(self, model_id: str) -> tuple[str, str]:
        name, at, tag = check_model_id(model_id).partition("@")
        if _NAME.fullmatch(name) is None or (at and _NAME.fullmatch(tag) is None):
            raise ModelNotFoundError(f"There is no model {model_id!r}: ids are name, name@version or name@alias.")
        return name, tag

    async def _exists(self, key: str) -> bool:
        try:
            return bool(await self._source.files(key))
        except FileNotFoundError:
            return False

    # Aliases

    async def _read_aliases(self, name: str) -> dict[str, str]:
        """Tags and versions of a model; nothing if it has no such file."""
        if self._aliases is None:
            return {}
        key = self._aliases.replace("{name}", name)
        try:
            return self._parsed(key, await self._read(key))
        except FileNotFoundError:
            return {}

    async def _read(self, key: str) -> bytes:
        for _ in range(READ_TRIES):
            [file] = await self._source.files(key)
            if file.size_bytes > ALIASES_BYTES_MAX:
                size = f"{file.size_bytes} bytes, more than {ALIASES_BYTES_MAX}"
                raise StoreConfigError(f"The file of aliases {key!r} in {self._source.name} takes {size}.")
            try:
                return bytes(await self._source.read(file, 0, file.size_bytes))
            except FileChangedError:
                continue
        raise StoreError(f"The file of aliases {key!r} in {self._source.name} changes whenever it is read.")

    def _parsed(self, key: str, data: bytes) -> dict[str, str]:
        def wrong(what: str) -> StoreConfigError:
            return StoreConfigError(
                f'The file of aliases {key!r} in {self._source.name} must be JSON such as {{"stable": "3"}}: {what}.'
            )

        try:
            aliases: Any = json.loads(data, object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:
            raise wrong(str(error)) from error
        if not isinstance(aliases, dict):
            raise wrong(f"it is a {type(aliases).__name__}")
        for tag, version in aliases.items():
            if _NAME.fullmatch(tag) is None or tag == LATEST:
                raise wrong(f"{tag[:64]!r} cannot be an alias")
            if not isinstance(version, str):
                raise wrong(f"{tag!r} stands for {str(version)[:64]}, which is no text")
            if not self._is_version(version):
                raise wrong(f"{tag!r} stands for {version[:64]!r}, which is no name of a version")
        return aliases


def natural(version: str) -> tuple[object, ...]:
    """A key to sort versions by: numbers as numbers, and after any text."""
    parts = [part for part in re.split(r"(\d+)", version) if part]
    return (*((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts), (-1, 0, version))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is there twice")
    return made
