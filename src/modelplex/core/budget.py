"""Room for models: how many, and how many bytes."""

from dataclasses import dataclass

UNLIMITED = -1


@dataclass(slots=True)
class Room:
    """Models and bytes that are taken, of a budget.

    A size is what is expected of a model until it is loaded, and what it turned out to be from then on.
    """

    models_max: int
    bytes_max: int
    models: int = 0
    size_bytes: int = 0

    def __post_init__(self) -> None:
        for name, value in (("models_max", self.models_max), ("bytes_max", self.bytes_max)):
            if value < 1 and value != UNLIMITED:
                raise ValueError(f"{name} must be at least 1, or {UNLIMITED} for no limit; got {value}")

    def fits(self, size_bytes: int) -> bool:
        """Whether one more model of this size fits."""
        models_fit = self.models_max == UNLIMITED or self.models < self.models_max
        return models_fit and (self.bytes_max == UNLIMITED or self.size_bytes + size_bytes <= self.bytes_max)

    @property
    def overdrawn(self) -> bool:
        """Whether what is there has turned out larger than the budget."""
        return self.bytes_max != UNLIMITED and self.size_bytes > self.bytes_max

    def can_ever_fit(self, size_bytes: int) -> bool:
        return self.bytes_max == UNLIMITED or size_bytes <= self.bytes_max

    def take(self, size_bytes: int) -> None:
        self.models += 1
        self.size_bytes += size_bytes

    def free(self, size_bytes: int) -> None:
        self.models -= 1
        self.size_bytes -= size_bytes
