"""How much there is in an object of any class: what its pickle would have, which nobody writes."""

import pickle


class _Counter:
    """A file that keeps nothing."""

    def __init__(self) -> None:
        self.size_bytes = 0

    def write(self, data: "pickle.PickleBuffer | bytes | memoryview") -> int:
        written = memoryview(data).nbytes
        self.size_bytes += written
        return written


def object_bytes(model: object) -> int:
    """The bytes of a model's arrays, wherever they are (scikit-learn's trees too), and of the rest of its state.

    Arrays are counted once each, in their place, and not copied. 0 if the model cannot be pickled: then nobody knows.
    """
    counter = _Counter()

    def count(buffer: pickle.PickleBuffer) -> None:
        counter.size_bytes += buffer.raw().nbytes

    try:
        pickle.Pickler(counter, protocol=5, buffer_callback=count).dump(model)
    except Exception:  # noqa: BLE001 - classes raise anything of what they cannot put into a pickle
        return 0
    return counter.size_bytes
