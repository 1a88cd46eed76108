"""Which machines have which models' files on their disks, as far as replicas have said, and what fetching one takes."""

from collections import OrderedDict
from collections.abc import Iterable

# What fetching a file is expected to take before any was seen to be fetched.
EXPECTED_FETCH_S = 1.0

# Weight of the newest observation: about the last twenty count.
_ALPHA = 0.1


class Disks:
    """Remembers where files are. It is empty, and costs nothing, where no store keeps files, or machines have no names.

    A disk cache evicts without a word: a file that is believed to be there may not be. It is fetched then, and said so.

    Args:
        entries_max: files on machines that are remembered, those of the models that were told of last.
    """

    def __init__(self, entries_max: int = 100_000) -> None:
        self._entries_max = entries_max
        self._machines: OrderedDict[str, dict[str, None]] = OrderedDict()  # by model
        self._entries = 0
        self._fetches_seen = 0
        self.average_fetch_s = EXPECTED_FETCH_S
        self.in_use = False  # whether any file is known to be anywhere

    def __len__(self) -> int:
        return self._entries

    def told(self, machine: str, model_ids: Iterable[str]) -> None:
        """The machine has these models' files. Nothing happens if it has no name."""
        if not machine:
            return
        for model_id in model_ids:
            machines = self._machines.setdefault(model_id, {})
            self._entries += machine not in machines
            machines[machine] = None
            self._machines.move_to_end(model_id)
            self.in_use = True
        while self._entries > self._entries_max:
            self._entries -= len(self._machines.popitem(last=False)[1])

    def saw_fetch(self, fetch_s: float) -> None:
        """A file was fetched, and took so long."""
        self._fetches_seen += 1
        self.average_fetch_s += max(_ALPHA, 1 / self._fetches_seen) * (fetch_s - self.average_fetch_s)

    def machines(self, model_id: str) -> Iterable[str]:
        """The machines that have the model's file."""
        return self._machines.get(model_id, ())

    def fetch_s(self, machine: str, model_id: str) -> float:
        """Expected seconds until the model's file is on the machine: 0 if it is, or if nothing is known of files."""
        if not self.in_use or not machine or machine in self._machines.get(model_id, ()):
            return 0.0
        return self.average_fetch_s
