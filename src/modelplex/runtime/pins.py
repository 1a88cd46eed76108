"""Models that are never evicted: those that the options of their loader name, and those that an administrator adds."""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

from modelplex import errors
from modelplex.config import UNLIMITED, CacheOptions
from modelplex.config.tenants import limits
from modelplex.core.cache import Start
from modelplex.runtime.cached_models import CachedModels
from modelplex.runtime.model_notes import on_behalf_of

log = logging.getLogger(__name__)


class Pins:
    """Leases of one loader's models that end with its host, or move with their alias.

    What an administrator pins holds as long as the replica lives; its successor has what the options name.

    Args:
        cached: the models.
        lease: answers the version that an id stands for, and the ticket of a lease of it, on behalf of nobody.
        options: the loader's.
    """

    def __init__(
        self, cached: CachedModels, lease: Callable[[str], Awaitable[tuple[str, int]]], options: CacheOptions
    ) -> None:
        self._cached = cached
        self._lease = lease
        self._options = options
        self._held: dict[str, tuple[str, int]] = {}  # by the id that was named: the version, and the ticket
        self._added: set[str] = set()  # by an administrator; of some the load may still run

    @property
    def counts(self) -> dict[str, int]:
        """By version, how many of its leases are pins."""
        counts: dict[str, int] = {}
        for version, _ in self._held.values():
            counts[version] = counts.get(version, 0) + 1
        return counts

    def holds(self, model_id: str) -> bool:
        """Whether this is pinned, as an id that was named or as the version that one stands for."""
        return model_id in self._held or model_id in self.counts

    async def load(self, model_id: str) -> None:
        """Load a model ahead of demand, and keep it if the options say so. What fails is told in the log."""
        with told_if_it_fails(model_id), on_behalf_of("pinned" if model_id in self._options.pinned else "preload"):
            version, ticket = await self._lease(model_id)
            if model_id in self._options.pinned and model_id not in self._held:
                self._held[model_id] = version, ticket
            else:
                self._cached.release(ticket)

    async def add(self, model_id: str) -> None:
        """Load a model, and keep it from now on.

        Raises `ModelPinnedError` if others would have no room beside it, or what says why it cannot be loaded.
        """
        if model_id in self._held:
            return
        self._added.add(model_id)
        try:
            self._check_count(model_id)
            with on_behalf_of("pinned"):
                version, ticket = await self._lease(model_id)
        except BaseException:
            self._added.discard(model_id)
            raise
        if model_id in self._held or model_id not in self._added:  # somebody was faster, or has thought better of it
            self._cached.release(ticket)
            return
        self._held[model_id] = version, ticket
        try:
            self._check_bytes(model_id)
        except errors.ModelPinnedError:
            self.remove(model_id)
            raise

    def remove(self, model_id: str) -> bool:
        """Take back what an administrator has pinned. Answers whether it was pinned.

        Raises `ModelPinnedError` if it is the options that pin it.
        """
        if model_id in self._options.pinned:
            raise errors.ModelPinnedError(
                f"Model '{model_id}' is pinned by the options of its loader (pinned): it is they that have to change."
            )
        was_added = model_id in self._added
        self._added.discard(model_id)
        held = self._held.pop(model_id, None)
        if held is not None:
            self._cached.release(held[1])
        return was_added

    def moved(self, alias: str, version: str) -> None:
        """The alias leads to another version: if it is pinned, that one is from now on."""
        if alias not in self._options.pinned and alias not in self._added:
            return
        before = self._held.pop(alias, None)
        if self._cached.cache.holds(version):
            ticket, answer = self._cached.ask(version, None)
            if isinstance(answer, Start):
                self._held[alias] = version, ticket
            else:
                self._cached.give_up(ticket)
        if alias not in self._held:  # as when it was never loaded, nor the one before
            self._cached.run(self._load_again(alias))
        if before is not None:
            self._cached.release(before[1])

    async def _load_again(self, alias: str) -> None:
        with told_if_it_fails(alias):
            await (self.add if alias in self._added else self.load)(alias)

    def close(self) -> None:
        self._added.clear()
        while self._held:
            self._cached.release(self._held.popitem()[1][1])

    def _check_count(self, model_id: str) -> None:
        options, most = self._options, self._options.models_max
        count = len({*self._options.pinned, *self._added})
        if most != UNLIMITED and count >= most:
            raise errors.ModelPinnedError(
                f"With model '{model_id}' {count} models would be pinned, which leaves no room for others with "
                f"max_num_models_per_replica={most}: unpin one of them first."
            )
        if options.tenants:
            try:
                limits(options.tenants, most, options.bytes_max, options.loads_max, count)
            except ValueError as error:
                raise errors.ModelPinnedError(f"Model '{model_id}' cannot be pinned: {error}") from error

    def _check_bytes(self, model_id: str) -> None:
        """There has to be room for one more of the size of the largest."""
        most, counts = self._options.bytes_max, self.counts
        sizes = [entry.size_bytes for entry in self._cached.cache.entries if entry.model_id in counts]
        if most != UNLIMITED and sizes and sum(sizes) + max(sizes) > most:
            raise errors.ModelPinnedError(
                f"With model '{model_id}' {sum(sizes)} bytes would be pinned, which leaves no room for others like it "
                f"with max_bytes_per_replica={most}: unpin one of them first."
            )


@contextlib.contextmanager
def told_if_it_fails(model_id: str) -> Iterator[None]:
    """What keeps a model from being loaded ahead of demand is told in the log, and tried again by demand."""
    try:
        yield
    except errors.ModelplexError as error:
        log.error("Model '%s' could not be loaded ahead of demand: %s", model_id, error)
