"""What a process says of itself when the controller asks: its models, its decisions, its metrics, by topic."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from modelplex.wire.framing import HEAD_BYTES_MAX
from modelplex.wire.messages import Ask, Done

log = logging.getLogger(__name__)

# A larger message would break the control channel, and end the process.
ANSWER_BYTES_MAX = HEAD_BYTES_MAX // 2

# Gets what was asked, and answers with what JSON can hold. Both as the topic has them. It must be quick.
Topic = Callable[[Any], Any]


class Inspection:
    """The process's end.

    Args:
        send: tells the controller.

    Attributes:
        topics: what can be asked, by name.
    """

    def __init__(self, send: Callable[[Done], None]) -> None:
        self.topics: dict[str, Topic] = {}
        self._send = send

    def received(self, message: object) -> None:
        """The controller has said something."""
        if isinstance(message, Ask):
            self._send(answered(self.topics, message))


def answered(topics: Mapping[str, Topic], ask: Ask) -> Done:
    """The answer to a question."""
    if (topic := topics.get(ask.topic)) is None:
        return Done(ask.number, f"it knows nothing about {ask.topic!r}")
    try:
        data = json.dumps(topic(json.loads(ask.argument))).encode()
        if len(data) > ANSWER_BYTES_MAX:
            raise OverflowError(f"the answer has {len(data)} bytes, more than {ANSWER_BYTES_MAX}")
        return Done(ask.number, "", data)
    except Exception as error:  # a fault of ours must not leave the controller waiting
        log.exception("A question about %s could not be answered.", ask.topic)
        return Done(ask.number, repr(error))
