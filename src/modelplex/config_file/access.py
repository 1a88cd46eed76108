"""A file of API keys, read: who may write it, everything that is wrong with it, or the keys."""

import os
import stat
from pathlib import Path

from modelplex.config.access import AccessConfig, AccessKey
from modelplex.config_file.document import BROKEN, BYTES_MAX, parse
from modelplex.config_file.options import entries, made
from modelplex.config_file.places import Findings, Place
from modelplex.errors import ConfigFileError


def read_keys(file: str | Path) -> AccessConfig:
    """The keys of a file of YAML or JSON: a mapping whose only entry `keys` is a list of `AccessKey`.

    Raises `ConfigFileError` with all mistakes, also if the file cannot be read, or if others than its owner, who is
    this user or root, may write it: who does, makes keys.
    """
    place = Place(str(file))
    try:
        with Path(file).open("rb") as opened:
            status = os.fstat(opened.fileno())
            text = opened.read(BYTES_MAX + 1).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else f"It is not UTF-8 text: {error}"
        raise ConfigFileError(problems=[place.problem(f"The file cannot be read: {why}.")]) from error
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigFileError(problems=[place.problem("Others than its owner may write the file: chmod go-w.")])
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigFileError(problems=[place.problem("The file belongs to another user, who could make keys.")])
    return parse_keys(text, str(file))


def parse_keys(text: str, name: str) -> AccessConfig:
    """The keys of such a text. Raises `ConfigFileError`."""
    findings = Findings()
    root = parse(text, name, findings)
    listed = entries(root, ["keys"], findings).get("keys")
    if listed is None:
        if not findings.problems:
            findings.wrong(root.place, "keys is missing.")
    elif not isinstance(listed.data, list):
        if listed.data is not BROKEN:
            findings.wrong(listed.place, "keys must be a list.")
    else:
        keys = [made(value, AccessKey, findings) for value in listed.data]
        if not findings.problems:
            try:
                return AccessConfig(keys=tuple(keys))
            except ValueError as error:
                findings.wrong(listed.place, str(error))
    raise findings.error()
