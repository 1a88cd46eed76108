"""All the model caches of a replica: found by loader, and together as routers see them."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from modelplex import errors
from modelplex.config import UNLIMITED
from modelplex.multiplex import Loader
from modelplex.runtime.models import ModelHost
from modelplex.wire.messages import Prefetch

# Models with files on the disk that routers are told of when they come.
ON_DISK_MAX = 1000


class ModelHosts:
    """One host for each loader and the instance that its method belongs to.

    Of several, routers hear what is true of the worst of those in use: they do not know which one a request will ask.

    Args:
        make: makes a host.
    """

    def __init__(self, make: Callable[[Loader, object], ModelHost]) -> None:
        self._make = make
        self._hosts: dict[tuple[Loader, int], ModelHost] = {}
        self._on_disk: OrderedDict[str, None] = OrderedDict()
        self._sole: ModelHost | None = None  # the one that there is, if there is just one; it is asked on every request

    def get(self, loader: Loader, owner: object) -> ModelHost:
        # The host keeps its owner alive, so the owner's id stays its own.
        key = (loader, id(owner))
        host = self._hosts.get(key)
        if host is None:
            host = self._hosts[key] = self._make(loader, owner)
            self._sole = host if len(self._hosts) == 1 else None
        return host

    def __iter__(self) -> Iterator[ModelHost]:
        """Those of the deployment's own methods, and functions that were ever asked for a model; or all there are."""
        shown = [host for (_, owner), host in self._hosts.items() if host.used or owner != id(None)]
        return iter(shown or self._hosts.values())

    def named(self, loader: str = "") -> ModelHost:
        """The host of a loader; without a name, of the only one that is a method of the deployment, or the only one.

        Raises `ModelNotFoundError` if there is none such.
        """
        found = [host for host in self._hosts.values() if loader in ("", host.name)]
        if len(found) > 1:
            found = [host for (_, owner), host in self._hosts.items() if owner != id(None) and host in found]
        if len(found) != 1:
            names = ", ".join(sorted(host.name for host in self._hosts.values())) or "none"
            raise errors.ModelNotFoundError(f"There is not one loader {loader!r} that is meant; there are: {names}.")
        return found[0]

    async def start(self) -> None:
        await asyncio.gather(*(host.start() for host in self._hosts.values()))

    async def warm(self, models: Mapping[str, Sequence[str]], timeout_s: float) -> None:
        """Load these, as far as there is room, before anybody asks for them; what takes longer goes on.

        Args:
            models: by the name of their loader, or by an empty name if there is only one.
            timeout_s: for all of them.
        """
        hosts = list(self._hosts.values())
        wanted = [models.get(host.name) or (models.get("", ()) if len(hosts) == 1 else ()) for host in hosts]
        await asyncio.gather(*(host.warm(ids, timeout_s) for host, ids in zip(hosts, wanted, strict=True)))

    async def close(self) -> None:
        await asyncio.gather(*(host.close() for host in self._hosts.values()))

    def prefetch(self, asked: Prefetch, promised: Collection[str]) -> bool:
        """Have a model loaded. False if it will not be, and that is to be said.

        Of several loaders, nobody but a request could say which; then nothing happens. Nor does it if its load would
        cost what it is not worth, since there is no room besides that which is `promised` to other models.
        """
        model_id, hosts, room = asked.model_id, self.in_use, self.room
        if asked.worth_s is not None and not self.knows(model_id) and model_id not in promised:
            is_full = room is not None and room <= len(promised)
            if is_full and self.harm_s >= asked.worth_s:
                return False
        if len(hosts) != 1:
            return asked.worth_s is None
        hosts[0].prefetch(model_id, asked.share, asked.tenant, ahead=asked.worth_s is not None)
        return True

    def fetched(self, model_id: str, fetch_s: float | None) -> None:
        """If the model was fetched, for however short a time, its file is on this machine's disk."""
        if fetch_s is None:
            return
        self._on_disk[model_id] = None
        self._on_disk.move_to_end(model_id)
        if len(self._on_disk) > ON_DISK_MAX:
            self._on_disk.popitem(last=False)

    # What the controller is told

    @property
    def models(self) -> list[str]:
        """What is loaded or being loaded, each once, by whatever names it is asked for."""
        hosts = self._hosts.values()
        return list({model_id for host in hosts for model_id in (*host.cache.resident, *host.cache.loading)})

    @property
    def aliases(self) -> dict[str, dict[str, str]]:
        """By loader, by an empty name if there is only one: which model each known alias leads to."""
        sole = self._sole is not None
        return {"" if sole else host.name: aliases for host in self._hosts.values() if (aliases := host.aliases)}

    def has(self, model_id: str) -> bool:
        """Whether this is the id of a model itself that is here, rather than an alias."""
        return any(host.cache.knows(model_id) for host in self._hosts.values())

    # What routers are told

    @property
    def on_disk(self) -> list[str]:
        """Models whose files are on this machine's disk, as far as they were loaded here of late."""
        return list(self._on_disk)

    @property
    def loaded(self) -> list[str]:
        return list({model_id for host in self._hosts.values() for model_id in host.loaded})

    @property
    def loading(self) -> list[str]:
        return list({model_id for host in self._hosts.values() for model_id in host.loading})

    @property
    def room(self) -> int | None:
        """How many models can be loaded without evicting one; None for any number."""
        return min((room for host in self.in_use if (room := host.cache.room) is not None), default=None)

    @property
    def loads_max(self) -> int:
        """How many loads run at a time, or `UNLIMITED`."""
        limits = [host.cache.loads_max for host in self.in_use]
        return min((limit for limit in limits if limit != UNLIMITED), default=UNLIMITED)

    @property
    def harm_s(self) -> float:
        """What the next eviction would cost (`core.cache.ModelCache.harm_s`)."""
        if self._sole is not None:
            return self._sole.cache.harm_s
        return max([host.cache.harm_s for host in self.in_use], default=0.0)

    @property
    def by_loader(self) -> dict[str, list[str]]:
        """What each of several loaders holds; empty if there is only one."""
        if self._sole is not None:
            return {}
        return {host.name: held for host in self._hosts.values() if (held := host.cache.resident)}

    @property
    def models_max(self) -> int:
        """How many models there may be, or `UNLIMITED`."""
        limits = [host.models_max for host in self.in_use]
        return min((limit for limit in limits if limit != UNLIMITED), default=UNLIMITED)

    def knows(self, model_id: str) -> bool:
        """Whether the model is loaded, being loaded, or waited for."""
        if self._sole is not None:
            return self._sole.view.knows(model_id)
        return any(host.view.knows(model_id) for host in self._hosts.values())

    def holds(self, model_id: str) -> bool:
        """Whether the model is loaded."""
        if self._sole is not None:
            return self._sole.view.holds(model_id)
        return any(host.view.holds(model_id) for host in self._hosts.values())

    def measured(self, model_id: str) -> tuple[int, float] | None:
        """Size in bytes and load seconds of a model that is loaded; None if it is not."""
        found = (host.view.measured(model_id) for host in self._hosts.values())
        return next((measured for measured in found if measured is not None), None)

    @property
    def in_use(self) -> list[ModelHost]:
        """Those that were ever asked for a model; all, if none was."""
        return [host for host in self._hosts.values() if host.used] or list(self._hosts.values())
