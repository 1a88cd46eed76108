"""On which machines of a cluster proxies are wanted, and when those of the others may go.

`ProxyPlaces` is told how things are, and answers with `Open` and `Close`, which are booked already. What holds after
every decision, whatever the history:

1. Each machine that is wanted is open, and none that is not there. Nothing is opened on one that is being drained.
2. A machine that is there is closed only while another one that is wanted has a proxy that serves: a change never takes
   the last proxy.
3. A machine that is wanted no more is closed when it has been so for `linger_s`, so that replicas may come and go. One
   that is being drained is closed as soon as its replicas are gone, and not before.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

# Where proxies may be, as Ray Serve calls it; "AllNodes" is ours.
EVERY_NODE = "EveryNode"
ALL_NODES = "AllNodes"
HEAD_ONLY = "HeadOnly"
DISABLED = "Disabled"
LOCATIONS = (DISABLED, HEAD_ONLY, EVERY_NODE, ALL_NODES)


class Machine(Protocol):
    """What there is to know of a machine (`runtime.engine.Machine`)."""

    @property
    def name(self) -> str: ...
    @property
    def is_head(self) -> bool: ...
    @property
    def is_draining(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Open:
    """Proxies are to run on this machine from now on."""

    machine: str


@dataclass(frozen=True, slots=True)
class Close:
    """No proxies are to run there any more. If the machine is gone, theirs have ended, or will, by themselves."""

    machine: str


Command = Open | Close


class ProxyPlaces:
    """Decides for one system.

    Args:
        location: EVERY_NODE for each machine that has a replica, and the head always; ALL_NODES, HEAD_ONLY or DISABLED.
        linger_s: how long a machine keeps its proxies when it is wanted no more.

    Attributes:
        open: the machines that are open; each with the time since when it is not wanted, None if it is.
        next_tick: when to decide again although nothing has changed.
    """

    def __init__(self, location: str, linger_s: float) -> None:
        self._location = location
        self._linger_s = linger_s
        self.open: dict[str, float | None] = {}
        self.next_tick: float | None = None

    def adopt(self, machine: str) -> None:
        """Proxies run there that were started by somebody else."""
        self.open.setdefault(machine, None)

    def decide(
        self, machines: Iterable[Machine], used: Collection[str], ready: Collection[str], now: float
    ) -> list[Command]:
        """What is to be done.

        Args:
            machines: all that there are.
            used: those that have a replica.
            ready: those that have a proxy that serves.
            now: seconds, of a clock that never goes back.
        """
        self.next_tick = None
        there = {machine.name: machine for machine in machines}
        commands: list[Command] = [Close(name) for name in self.open if name not in there]
        wanted = [machine.name for machine in there.values() if self._is_wanted(machine, used)]
        commands += [Open(name) for name in wanted if name not in self.open]
        self.open = {name: since for name, since in self.open.items() if name in there} | dict.fromkeys(wanted)
        can_go = any(name in ready for name in wanted)
        for name, since in list(self.open.items()):
            if name in wanted:
                continue
            is_draining, is_used = there[name].is_draining, name in used
            since = self.open[name] = now if since is None else since
            if (is_draining and is_used) or not can_go:
                continue  # another decision comes when that is otherwise
            if is_draining or since + self._linger_s <= now:
                del self.open[name]
                commands.append(Close(name))
            else:
                self._wake(since + self._linger_s)
        return commands

    def _is_wanted(self, machine: Machine, used: Collection[str]) -> bool:
        if machine.is_draining or self._location == DISABLED:
            return False
        if machine.is_head or self._location == ALL_NODES:
            return True
        return self._location == EVERY_NODE and machine.name in used

    def _wake(self, at: float) -> None:
        self.next_tick = at if self.next_tick is None else min(at, self.next_tick)
