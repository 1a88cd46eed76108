"""Why the fleet has chosen a replica (`core.placement`), once it has: the rule, and the numbers that decided."""

from collections.abc import Sequence

from modelplex.core.costs import Costs
from modelplex.core.reasons import Explanation, Numbers, Rule
from modelplex.core.residency import ReplicaView

# Seconds until the request would begin, how crowded it is, whether it is on another machine, which of the holders.
Score = tuple[float, float, bool, int]

ONLY_HOLDER: Explanation = (Rule.ONLY_HOLDER, {})
NO_REPLICA: Explanation = (Rule.NO_REPLICA, {})


def holder(scores: Sequence[Score], place: int, best: ReplicaView) -> Rule:
    """Of several holders, the one in this place was the best."""
    if len(scores) == 1:
        return Rule.ONLY_HOLDER
    if best.near and any(score[2] and score[:2] == scores[place][:2] for score in scores):
        return Rule.NEAREST
    return Rule.BEST_HOLDER


def place(best: ReplicaView | None, candidates: Sequence[ReplicaView], model_id: str, costs: Costs) -> Explanation:
    """Nobody holds the model, and of these candidates this one was the best to load it."""
    if best is None:
        return NO_REPLICA
    numbers: dict[str, float] = {"candidates": len(candidates), "load_s": costs.load_s(best, model_id)}
    if best.room is not None:
        numbers["room"] = best.room
    rule = Rule.ROOM if best.has_room else Rule.LEAST_HARM
    if rule is Rule.LEAST_HARM:
        numbers |= {"harm_s": best.harm_s, "harm_max_s": max(view.harm_s for view in candidates)}
    if costs.disks.in_use and best.machine in costs.disks.machines(model_id):
        return Rule.ON_DISK, numbers
    return rule, numbers


def free(best: ReplicaView | None, candidates: Sequence[ReplicaView]) -> Explanation:
    """For a request without a model."""
    is_nearest = best is not None and best.near and any(view.far and view.busy == best.busy for view in candidates)
    return Rule.NEAREST if is_nearest else Rule.FREE_SLOTS, {"candidates": len(candidates)}


def load_there(view: ReplicaView, model_id: str, costs: Costs, now: float) -> Numbers:
    """How far the load of a model is on a replica that has told of it, or is booked to."""
    elapsed_s, rest_s = view.load_elapsed_s(model_id, now), costs.load_rest_s(view, model_id, now)
    return {"loading_s": elapsed_s, "rest_s": rest_s}
