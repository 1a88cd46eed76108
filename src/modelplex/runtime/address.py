"""Where a process can be linked to, as text that travels: a Unix socket, or TCP with what is nearer on one machine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """One process's address.

    As text it is the path of a Unix socket alone, or `host:port`, or `host:port machine path`.

    Attributes:
        host: name or number for TCP; empty if there is a Unix socket alone.
        port: for TCP.
        machine: the machine that it is on; empty if there is only one.
        path: of its Unix socket, which reaches no further than that machine; empty if it has none.
    """

    host: str = ""
    port: int = 0
    machine: str = ""
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """The address that `str` wrote; an empty one of what an engine calls its processes that have none."""
        if text.startswith("/"):
            return cls(path=text)
        place, _, local = text.partition(" ")
        host, _, port = place.rpartition(":")
        machine, _, path = local.partition(" ")
        return cls(host.strip("[]"), int(port), machine, path) if port.isdecimal() else cls()

    def __str__(self) -> str:
        if not self.host:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port} {self.machine} {self.path}".rstrip()
