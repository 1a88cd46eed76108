"""What a cache's decisions are kept as (`observe.decisions`): whom a load is for, what goes and what comes of it."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from modelplex import context
from modelplex.config import UNLIMITED
from modelplex.core import cache
from modelplex.core.shelf import Phase
from modelplex.multiplex import Loader
from modelplex.observe.decisions import Decisions

# A wait that is shorter than this is none: it is what deciding takes.
WAIT_MIN_S = 0.001

# Loads of a process, counted.
_loads = itertools.count(1)

# Why a model is loaded that no request has asked for; in words, in `_PURPOSES`.
_purpose: ContextVar[str] = ContextVar("modelplex_purpose", default="")

_PURPOSES = {
    "pinned": "since it is pinned",
    "preload": "since it is preloaded",
    "takes_over": "since this replica takes over from one that served it",
    "prefetch": "ahead of demand, as somebody has asked",
    "ahead": "ahead of demand, since a replica that held it is gone",
    "version": "since an alias is to lead to it",
    "asked": "since an administrator has asked for it",
    "nobody": "on behalf of nobody",
}

_POLICIES = {"lru": "used longest ago", "gdsf": "worth least"}

# What the methods of internal calls begin with (`steering`), which are no user's requests.
_INTERNAL = "-/"


@contextlib.contextmanager
def on_behalf_of(purpose: str) -> Iterator[None]:
    """Models that are asked for within this, and by no request, are asked for this purpose."""
    token = _purpose.set(purpose)
    try:
        yield
    finally:
        _purpose.reset(token)


@dataclass(slots=True)
class _Opening:
    """A model that is waited for, and who was the first to."""

    load: int
    request_id: str
    purpose: str
    began: float
    done: bool = False


class ModelNotes:
    """Notes what one cache decides.

    Args:
        loader: of the cache.
        decides: the cache.
    """

    def __init__(self, loader: Loader, decides: cache.ModelCache) -> None:
        self._decisions = Decisions()
        self._cache = decides
        self._replica_id = ""
        eviction = loader.options.eviction
        self._policy = _POLICIES[eviction] if isinstance(eviction, str) else f"chosen by {eviction.__name__}"
        self._openings: dict[str, _Opening] = {}
        self._askers: dict[int, tuple[str, str]] = {}  # by the tickets of those who wait: request and model

    def follow(self, decisions: Decisions, replica_id: str) -> None:
        """Note it there from now on, as this replica's."""
        self._decisions, self._replica_id = decisions, replica_id

    def asked(self, ticket: int, model_id: str, request: context.RequestContext | None) -> None:
        """The model has been asked for, and is not there; called before anything else is made of that."""
        request_id = "" if request is None else request.request_id
        self._askers[ticket] = (request_id, model_id)
        opening, phase = self._openings.get(model_id), self._cache.phase(model_id)
        if opening is None or (opening.done and phase is not Phase.SETTLING):
            purpose = _purpose.get() or "nobody"
            if request is not None:
                purpose = "asked" if request.method_name.startswith(_INTERNAL) else "demand"
            self._openings[model_id] = _Opening(next(_loads), request_id, purpose, time.perf_counter())
        elif request_id:
            is_loading = phase in (Phase.LOADING, Phase.SETTLING)
            words = {"request_of_load": f"request {opening.request_id}"} if opening.request_id else {}
            numbers = {"since_s": time.perf_counter() - opening.began}
            self._note("wait", "load" if is_loading else "room_for_model", model_id, request_id, numbers, words)

    def over(self, ticket: int) -> None:
        """That ticket has its answer, or waits for none any more."""
        _, model_id = self._askers.pop(ticket, ("", ""))
        if model_id in self._openings and not self._cache.keeps(model_id):
            del self._openings[model_id]

    def rejected(self, reject: cache.Reject) -> None:
        request_id, _ = self._askers.get(reject.ticket, ("", ""))
        numbers: dict[str, float] = {}
        if reject.retry_after_s is not None:
            numbers["retry_after_s"] = reject.retry_after_s
        if reject.why is cache.Why.TOO_LARGE and isinstance(reject.error, int):
            numbers |= {"size_bytes": reject.error, "max_bytes": self._cache.bytes_max}
        words = _error(reject.error) if isinstance(reject.error, BaseException) else {}
        self._note("reject", reject.why.value.replace(" ", "_"), reject.model_id, request_id, numbers, words)

    def loads(self, load: cache.Load) -> None:
        opening = self._openings.get(load.model_id)
        if opening is None or opening.done:  # it is loaded again, in its turn
            request_id, _ = self._askers.get(load.ticket or 0, ("", ""))
            purpose = "demand" if request_id else "nobody"
            opening = self._openings[load.model_id] = _Opening(next(_loads), request_id, purpose, time.perf_counter())
        numbers: dict[str, float] = {"waited_s": time.perf_counter() - opening.began, "models": load.models}
        if numbers["waited_s"] < WAIT_MIN_S:
            del numbers["waited_s"]
        if self._cache.models_max != UNLIMITED:
            numbers["models_max"] = self._cache.models_max
        if load.load_s:
            numbers |= {"expected_s": load.load_s, "expected_bytes": load.size_bytes}
        if self._cache.bytes_max != UNLIMITED:
            numbers |= {"taken_bytes": load.taken_bytes, "max_bytes": self._cache.bytes_max}
        words = {"purpose": _PURPOSES.get(opening.purpose, opening.purpose)}
        if opening.request_id:
            words["for_request"] = f"request {opening.request_id}"
        self._note("load", opening.purpose, load.model_id, opening.request_id, numbers, words)

    def loaded(self, model_id: str, load_s: float, fetch_s: float | None, size_bytes: int) -> None:
        numbers = {"load_s": load_s, "size_bytes": size_bytes} | ({} if fetch_s is None else {"fetch_s": fetch_s})
        self._note("loaded", "loaded", model_id, self._request_of(model_id), numbers)
        if (opening := self._openings.get(model_id)) is not None:
            opening.done = True  # it may still have to be paid for

    def failed(self, model_id: str, load_s: float, error: BaseException) -> None:
        numbers, request_id = {"load_s": load_s}, self._request_of(model_id)
        self._note("load_failed", type(error).__name__, model_id, request_id, numbers, _error(error))
        self._openings.pop(model_id, None)

    def unloads(self, unload: cache.Unload) -> None:
        opening = self._openings.get(unload.room_for)
        numbers: dict[str, float] = {
            "idle_s": unload.idle_s,
            "uses": unload.uses,
            "size_bytes": unload.size_bytes,
            "harm_s": unload.harm_s,
            "idle_models": unload.idle_models,
        }
        if self._cache.bytes_max != UNLIMITED:
            numbers["max_bytes"] = self._cache.bytes_max
        words = {"policy": self._policy}
        if unload.room_for:
            words["for_model"] = unload.room_for
        self._note(
            "evict",
            unload.reason,
            unload.model_id,
            opening.request_id if opening is not None else "",
            numbers,
            words,
            load=0 if opening is None else opening.load,
        )
        if (own := self._openings.get(unload.model_id)) is not None and own.done:
            del self._openings[unload.model_id]

    def _request_of(self, model_id: str) -> str:
        opening = self._openings.get(model_id)
        return "" if opening is None else opening.request_id

    def _note(
        self,
        kind: str,
        why: str,
        model_id: str,
        request_id: str,
        numbers: dict[str, float],
        words: dict[str, str] | None = None,
        load: int | None = None,
    ) -> None:
        if load is None:
            opening = self._openings.get(model_id)
            load = 0 if opening is None else opening.load
        self._decisions.note(
            *(kind, why),
            request_id=request_id,
            model_id=model_id,
            replica=self._replica_id,
            numbers=numbers,
            words=words,
            load=load,
        )


def _error(error: BaseException) -> dict[str, str]:
    """What a user's exception says, without the exception."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the user's class may raise anything here
        text = ""
    return {"error": f"{type(error).__name__}: {text}"[:500]}
