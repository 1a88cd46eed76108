"""A user's own rule for which replica a request goes to: what it is told, and what it may answer.

It decides that and nothing else. Slots, lines, refusals, retries and deadlines stay with the router, whatever it
answers.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from modelplex.core.admission import Request
from modelplex.core.placement import Fleet
from modelplex.core.reasons import Rule
from modelplex.core.residency import ReplicaView


class ReplicaInfo:
    """One replica, as far as this process knows it at this moment. It is for reading, during `choose`."""

    __slots__ = ("_view",)

    def __init__(self, view: ReplicaView) -> None:
        self._view = view

    @property
    def replica_id(self) -> str:
        return self._view.replica_id

    @property
    def ongoing(self) -> int:
        """Requests that run there, those of other callers included."""
        return self._view.slots.limit - self._view.slots.free

    @property
    def max_ongoing(self) -> int:
        """Requests that may run there at a time."""
        return self._view.slots.limit

    @property
    def free(self) -> int:
        """Requests that it could begin now."""
        return self._view.slots.free

    @property
    def waiting(self) -> int:
        """Requests of this process that wait for it."""
        return self._view.queued

    @property
    def room(self) -> int | None:
        """Models that it could load without evicting one; None for any number."""
        return self._view.room

    @property
    def models(self) -> list[str]:
        """The models that it holds, loads, or is about to load."""
        return [model_id for model_id in self._view.models if self._view.expects(model_id)]

    def holds(self, model_id: str) -> bool:
        return self._view.has_loaded(model_id)

    def loading(self, model_id: str) -> bool:
        """Whether it loads the model, or has been sent a request that will have it loaded."""
        return self._view.expects(model_id) and not self._view.has_loaded(model_id)

    def __repr__(self) -> str:
        return f"ReplicaInfo({self.replica_id!r}, {self.ongoing} of {self.max_ongoing}, models={self.models})"


class PendingRequest:
    """A request to be sent somewhere.

    Attributes:
        model_id: empty when it names no model.
        request_id: names it in logs; empty when it has no name.
        method_name: what it calls; `__call__` for one of HTTP.
        waited_s: seconds since it came to this process.
        attempt: 1, and one more each time that it came back: its replica died, or had no slot or room after all.
    """

    __slots__ = ("_choose", "attempt", "method_name", "model_id", "request_id", "waited_s")

    def __init__(
        self,
        model_id: str,
        request_id: str = "",
        method_name: str = "__call__",
        waited_s: float = 0.0,
        attempt: int = 1,
        choose: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.model_id = model_id
        self.request_id = request_id
        self.method_name = method_name
        self.waited_s = waited_s
        self.attempt = attempt
        self._choose = choose

    def default_choice(self) -> str | None:
        """What would be chosen without a class of the user's, to be returned as it is."""
        return self._choose()

    def __repr__(self) -> str:
        return f"PendingRequest({self.model_id!r}, {self.request_id!r}, {self.method_name!r}, attempt={self.attempt})"


class Chooser(Protocol):
    """What `request_router_class` names: made once in each process that calls the deployment, with its kwargs."""

    def choose(self, request: PendingRequest, replicas: Sequence[ReplicaInfo]) -> str | None:
        """The id of the replica that the request is to go to.

        `replicas` are all that can be sent requests, at least one. When the one that is named has no slot free, the
        request waits for it, before those that come later, and the question may be put again. None is to wait for
        nothing in particular: the question is put again when a slot comes free somewhere, and from time to time.
        """


class ChoiceError(Exception):
    """A chooser has answered what is no replica's id."""


class Choice:
    """Asks a chooser, and has the last word: for what it answers wrongly, the fleet's own choice stands in.

    Args:
        chooser: the user's.
        describe: the id of a request, and the method that it calls, by its number.
        failed: told what the chooser raised, or `ChoiceError`.
    """

    def __init__(
        self,
        chooser: Chooser,
        describe: Callable[[int], tuple[str, str]] = lambda _: ("", "__call__"),
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._chooser = chooser
        self._describe = describe
        self._failed = failed
        self._views: list[ReplicaView] = []
        self._infos: tuple[ReplicaInfo, ...] = ()

    def choose(self, request: Request, fleet: Fleet, now: float) -> ReplicaView | None:
        """The replica that the request goes to, or waits for; None when it waits for nothing in particular.

        There is at least one replica.
        """
        if (views := list(fleet.views.values())) != self._views:
            self._views, self._infos = views, tuple(map(ReplicaInfo, views))

        def default() -> str | None:
            view = self._default(request, fleet, now)
            return None if view is None else view.replica_id

        waited_s, attempt = now - request.arrived, 1 + request.losses + request.refusals
        pending = PendingRequest(request.model_id, *self._describe(request.number), waited_s, attempt, default)
        try:
            answer: object = self._chooser.choose(pending, self._infos)
            if answer is None:
                return None
            view = fleet.views.get(answer) if isinstance(answer, str) else None
            if view is None:
                raise ChoiceError(f"It chose {answer!r:.200}; the id of one of the replicas would be right, or None.")
            fleet.why = Rule.CHOSEN, {"candidates": len(views)}
            return view
        except Exception as error:  # noqa: BLE001 - a user's code: it may raise anything, and its owner is told
            self._failed(error)
        return self._default(request, fleet, now)

    def _default(self, request: Request, fleet: Fleet, now: float) -> ReplicaView | None:
        view = fleet.choose(request.model_id, now)
        # Without a model, any replica will do: it waits for the first that is free.
        return view if view is not None and (request.model_id or view.slots.free) else None
