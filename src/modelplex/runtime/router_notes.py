"""What a router's decisions are kept as (`observe.decisions`)."""

from collections.abc import Mapping

from modelplex import errors
from modelplex.core.dispatch import DECLINED
from modelplex.core.reasons import Numbers, Rule
from modelplex.core.routing import Prefetch, Reject, Send
from modelplex.observe.decisions import Decisions
from modelplex.runtime.exchange import Exchange
from modelplex.wire.messages import Refuse


class RouterNotes:
    """Notes what one router decides; the core tells it who waits (`core.reasons.Journal`).

    Args:
        decisions: where to.
        name: the deployment's.
        exchanges: requests by their numbers.
    """

    def __init__(self, decisions: Decisions, name: str, exchanges: Mapping[int, Exchange]) -> None:
        self._decisions = decisions
        self._words = {"deployment": name}
        self._exchanges = exchanges

    def sent(self, exchange: Exchange, send: Send) -> None:
        """The request is about to be sent."""
        begin = exchange.begin
        if send.warm and not (send.waited or exchange.sent):  # nearly all requests: this must cost nothing
            self._decisions.routes.append(
                (
                    begin.arrived_at,
                    begin.request_id,
                    begin.model_id,
                    send.replica_id,
                    send.rule,
                    send.numbers,
                    send.taken,
                    send.slots,
                )
            )
            return
        numbers = {**send.numbers, "taken": send.taken, "slots": send.slots}
        self._note("route", send.rule, exchange, send.replica_id, numbers)

    def waits(self, number: int, line: str | None, rule: Rule, numbers: Numbers) -> None:
        replica_id = "" if line is None or line == DECLINED else line
        self._note("wait", rule, self._exchanges[number], replica_id, numbers)

    def rejected(self, exchange: Exchange, reject: Reject) -> None:
        numbers = dict(reject.numbers)
        if reject.retry_after_s is not None:
            numbers["rest_s"] = reject.retry_after_s
        self._note("reject", reject.why.value.replace(" ", "_"), exchange, "", numbers)

    def refused(self, exchange: Exchange, refuse: Refuse) -> None:
        """The replica that the request was sent to has not begun it."""
        why = "no_room" if refuse.no_room else "no_slot"
        self._note("refuse", why, exchange, exchange.replica_id, {"ongoing": refuse.ongoing})

    def lost(self, replica_id: str) -> None:
        """The replica is gone, with whatever ran there."""
        for exchange in self._exchanges.values():
            if exchange.replica_id == replica_id:
                self._note("lost", "replica_lost", exchange, replica_id)

    def dropped(self, exchange: Exchange, error: errors.ModelplexError) -> None:
        """It was given up, wherever it was."""
        kinds = {errors.RequestTimeoutError: "timeout", errors.DeploymentUnavailableError: "gone"}
        self._note("cancel", kinds.get(type(error), "cancelled"), exchange, exchange.replica_id)

    def prefetches(self, prefetch: Prefetch) -> None:
        is_ahead = prefetch.worth_s is not None
        numbers = {"share": prefetch.share} | ({} if prefetch.worth_s is None else {"worth_s": prefetch.worth_s})
        self._decisions.note(
            "prefetch",
            "ahead" if is_ahead else "cold",
            model_id=prefetch.model_id,
            replica=prefetch.replica_id,
            numbers=numbers,
            words=self._words,
        )

    def _note(
        self, kind: str, why: str, exchange: Exchange, replica_id: str, numbers: Mapping[str, float] | None = None
    ) -> None:
        begin = exchange.begin
        self._decisions.note(
            *(kind, why),
            request_id=begin.request_id,
            model_id=begin.model_id,
            replica=replica_id,
            numbers=numbers,
            words=self._words,
        )
