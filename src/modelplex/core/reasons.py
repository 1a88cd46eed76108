"""What the core says of its decisions, for who asks: why a request goes where it goes, or waits where it waits."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

# What decided, by name; the unit of a duration or a size is the end of its name.
Numbers = Mapping[str, float]


class Rule(StrEnum):
    """Which rule of `core.routing` chose a replica, or why a request is sent there."""

    ONLY_HOLDER = "only_holder"  # nobody else holds the model
    BEST_HOLDER = "best_holder"  # of several that hold or load it, it is expected to begin soonest
    NEAREST = "nearest"  # among equals, it is on the router's own machine
    JOINS_LOAD = "joins_load"  # the model loads there, or a request that will have it loaded is on its way there
    COPY = "copy"  # waiting for those that hold it costs more than one more load
    ROOM = "room"  # nobody holds it; here is room for one more
    ON_DISK = "on_disk"  # nobody holds it; of places as good, here is its file on the machine's disk
    LEAST_HARM = "least_harm"  # nobody holds it or has room; what has to go for it here is missed least
    FREE_SLOTS = "free_slots"  # it names no model; here are the most slots free
    CHOSEN = "chosen"  # a class of the user's has said so
    TURN = "turn"  # it waited, and its turn came
    SLOT_ELSEWHERE = "slot_elsewhere"  # it waited for another replica; this one holds its model and has a slot free
    BROADCAST = "broadcast"  # it goes to every replica
    NO_REPLICA = "no_replica"  # there is none


# Why something was chosen.
Explanation = tuple[Rule, Numbers]


class Journal(Protocol):
    """Is told of decisions that are no commands."""

    def waits(self, number: int, line: str | None, rule: Rule, numbers: Numbers) -> None:
        """The request waits in a line (`core.admission.Request.line`), as no slot is free for it.

        `rule` is why it is that line.
        """
