"""Gives the replicas of a deployment their `user_config`, and knows which each of them has."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from modelplex import errors
from modelplex.runtime.questions import Questions
from modelplex.wire.messages import Reconfigure

TIMEOUT_S = 60.0

_UNKNOWN = object()  # what a replica has that an earlier controller has started


class UserConfigs:
    """One deployment's.

    Args:
        title: the deployment, for errors.
        questions: asks replicas.
    """

    def __init__(self, title: str, questions: Questions) -> None:
        self._title = title
        self._questions = questions
        self._given: dict[str, Any] = {}

    def started(self, name: str, user_config: Any) -> None:
        """A replica gets this when it starts."""
        self._given[name] = user_config

    def gone(self, name: str) -> None:
        self._given.pop(name, None)

    def has(self, name: str, user_config: Any) -> bool:
        """Whether a replica has this, as far as is known."""
        return self._given.get(name, _UNKNOWN) in (_UNKNOWN, user_config)

    async def give(self, names: Iterable[str], user_config: Any) -> None:
        """Have these replicas take another one. Raises `DeploymentFailedError` if one of them does not."""
        data = json.dumps(user_config).encode()
        names = list(names)
        self._given.update(dict.fromkeys(names, user_config))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answers = await asyncio.gather(
                    *(self._questions.ask(name, lambda number: Reconfigure(number, data)) for name in names)
                )
        except TimeoutError:
            answers = [f"reconfigure took longer than {TIMEOUT_S:g} s"]
        if wrong := next(filter(None, answers), ""):
            raise errors.DeploymentFailedError(f"{self._title} does not take its user_config: {wrong}")
