"""Records of decisions in words: one English sentence each, with its numbers."""

from collections.abc import Mapping

# What users' code and clients say is shortened to so many characters.
WORDS_MAX = 200

# Of what has these units nothing is said when it is nothing.
_UNITS = ("_s", "_bytes")

# By kind and why, or by kind for all others of it: parts of a sentence. Of those after the first, each is left out if
# something that it names is not known.
_TEXTS: dict[str, tuple[str, ...]] = {
    "route/only_holder": ("sent to {replica}: it holds the model", "{taken} of {slots} slots are taken"),
    "route/best_holder": (
        "sent to {replica}: of {holders} that hold the model it is expected to begin soonest",
        "in {wait_s}",
        "{taken} of {slots} slots are taken",
    ),
    "route/nearest": ("sent to {replica}: among equals it is near", "{taken} of {slots} slots are taken"),
    "route/joins_load": (
        "sent to {replica}: the model is being loaded there, or about to be",
        "for {loading_s} so far",
        "expected to take another {rest_s}",
        "{taken} of {slots} slots are taken",
    ),
    "route/copy": (
        "sent to {replica} for one more copy of the model",
        "since to wait for one of the {holders} that hold it would take {wait_s}",
        "which is more than one more load is taken to cost, {copy_s}",
        "{taken} of {slots} slots are taken",
    ),
    "route/room": (
        "sent to {replica} to have the model loaded: nobody holds it, and there is room",
        "for {room} more",
        "the best of {candidates} looked at",
        "a load is expected to take {load_s}",
    ),
    "route/on_disk": (
        "sent to {replica} to have the model loaded: nobody holds it, and its file is on the disk there",
        "the best of {candidates} looked at",
        "a load is expected to take {load_s}",
    ),
    "route/least_harm": (
        "sent to {replica} to have the model loaded: nobody holds it or has room, and what must go there costs least",
        "{harm_s} against {harm_max_s} at most",
        "the best of {candidates} looked at",
        "a load is expected to take {load_s}",
    ),
    "route/free_slots": ("sent to {replica}: it names no model", "and {taken} of {slots} slots are taken there"),
    "route/chosen": (
        "sent to {replica}: the deployment's own router has chosen it",
        "of {candidates}",
        "{taken} of {slots} slots are taken",
    ),
    "route/turn": ("sent to {replica}: its turn has come", "after {waited_s}", "{taken} of {slots} slots are taken"),
    "route/slot_elsewhere": (
        "sent to {replica}, which holds its model and has a slot free before the one that it waited for",
        "after {waited_s}",
    ),
    "route/broadcast": ("sent to {replica}, as to every replica",),
    "wait/no_replica": ("waits for a replica of {deployment}, since there is none",),
    "wait/free_slots": ("waits for the first free slot of {deployment}", "with {ahead} before it"),
    "wait/chosen": ("waits where the router of {deployment} says", "for {replica}", "with {ahead} before it"),
    "wait/least_harm": (
        "waits for a slot of {replica}: nobody holds the model or has room, and all are busy",
        "with {ahead} before it",
    ),
    "wait/room": ("waits for a slot of {replica}: nobody holds the model, and all are busy", "with {ahead} before it"),
    "wait/on_disk": (
        "waits for a slot of {replica}: nobody holds the model, its file is on the disk there, and all are busy",
        "with {ahead} before it",
    ),
    "wait/copy": (
        "waits for a slot of {replica}, to have one more copy of the model loaded there",
        "since those that hold it would take {wait_s}",
        "with {ahead} before it",
    ),
    "wait/load": ("waits for its model, which is being loaded", "for {request_of_load}", "begun {since_s} ago"),
    "wait/room_for_model": ("waits for room for its model", "which {request_of_load} waits for, too"),
    "wait": (
        "waits for a slot of {replica}, which holds or loads the model",
        "expected to come in {wait_s}",
        "while one more load elsewhere is taken to cost {copy_s}",
        "with {ahead} before it",
    ),
    "reject/queue_full": ("rejected: {queued} requests wait for {deployment}, as many as may",),
    "reject/cold": (
        "rejected: its model is loaded nowhere yet",
        "after {waited_s}, as long as it would wait for that",
        "expected for another {rest_s}",
    ),
    "reject/deadline": ("given up: its time was over", "after {waited_s}, before it could be sent"),
    "reject/no_replica": ("rejected: {deployment} has no replica", "after {waited_s}"),
    "reject/replica_lost": ("given up: its replica is gone", "replicas lost with it: {losses}"),
    "reject/load_failed": ("gets no model: its load failed", "may be tried again in {retry_after_s}", "{error}"),
    "reject/failed_recently": (
        "gets no model: its load failed a short while ago",
        "may be tried again in {retry_after_s}",
        "{error}",
    ),
    "reject/overcommitted": ("gets no model: all room is held by requests that wait for room themselves",),
    "reject/too_large": ("gets no model: it takes {size_bytes}", "more than the budget of {max_bytes}"),
    "reject/closed": ("gets no model: the replica stops",),
    "refuse/no_slot": ("refused by {replica}, since {ongoing} requests run there: looked at again",),
    "refuse/no_room": ("refused by {replica}, which has no room for the model after all: looked at again",),
    "lost": ("{replica} was lost with it", "it may be sent elsewhere"),
    "cancel/timeout": ("given up: its time was over",),
    "cancel/gone": ("given up: {deployment} is no longer served",),
    "cancel": ("cancelled by whoever had sent it",),
    "prefetch/cold": ("{replica} is asked to load {model} all the same, since its request was rejected",),
    "prefetch": ("{replica} is asked to load {model} ahead of demand", "worth {worth_s} of loads"),
    "load/demand": (
        "{model} is loaded for {for_request}",
        "after {waited_s}",
        "{models} of at most {models_max} with it",
        "expected to take {expected_s}",
        "and {expected_bytes}",
    ),
    "load": (
        "{model} is loaded {purpose}",
        "after {waited_s}",
        "{models} of at most {models_max} with it",
        "expected to take {expected_s}",
        "and {expected_bytes}",
    ),
    "loaded": ("{model} is loaded, in {load_s}", "{fetch_s} of it to fetch its file", "takes {size_bytes}"),
    "load_failed": ("{model} could not be loaded", "after {load_s}", "{error}"),
    "evict/room": (
        "evicted {model} ({used}) to make room for {for_model}",
        "{policy} of {idle_models} idle",
        "{size_bytes} come free",
    ),
    "evict/size": (
        "evicted {model} ({used}) since {for_model} turned out larger than expected",
        "{policy} of {idle_models} idle",
        "{size_bytes} come free",
    ),
    "evict/ttl": ("unloaded {model} ({used}), since nobody used it for too long",),
    "evict/retired": ("unloaded {model} ({used}): a new version has taken its place, or somebody has asked for it",),
    "evict/closed": ("unloaded {model} ({used}): the replica stops",),
    "evict/too_large": ("unloaded {model}: it turned out to take {size_bytes}", "more than the budget of {max_bytes}"),
    "evict/surplus": ("unloaded {model}: of those that wait for each other's room it came last, and is loaded again",),
    "evict/unwanted": ("unloaded {model}: it turned out larger than expected, and nobody waits for it any more",),
    "end/warm": ("ended: its model was there", "queue {queue_s}", "run {run_s}"),
    "end/cold": ("ended: it had its model loaded", "queue {queue_s}", "load {load_s}", "run {run_s}"),
    "end/joined": ("ended: it joined the load of its model", "queue {queue_s}", "load {load_s}", "run {run_s}"),
    "end/none": ("ended: it used no model", "queue {queue_s}", "run {run_s}"),
    "end/failed": ("ended with an error, or cancelled", "queue {queue_s}", "load {load_s}", "run {run_s}"),
}


def text_of(kind: str, why: str, numbers: Mapping[str, float], words: Mapping[str, str]) -> str:
    """The sentence. Nothing in it can do harm to a terminal."""
    first, *more = _TEXTS.get(f"{kind}/{why}") or _TEXTS.get(kind) or (f"{kind}: {why}",)
    named = {name: shown(name, value) for name, value in numbers.items() if value or not name.endswith(_UNITS)}
    if numbers.get("candidates") == 1:  # so it was the best, and the worst
        named = {name: value for name, value in named.items() if name not in ("candidates", "harm_max_s")}
    named |= {name: printable(value) for name, value in words.items()}
    if "idle_s" in numbers and "uses" in numbers:
        uses = {0: "never used", 1: "used once"}.get(int(numbers["uses"]), f"used {named['uses']} times")
        named["used"] = f"idle for {shown('idle_s', numbers['idle_s'])}, {uses}"
    parts = [first.format_map(_Unknown(named))]
    for part in more:
        known = _Unknown(named)
        text = part.format_map(known)
        if not known.missed:
            parts.append(text)
    return ", ".join(parts)


class _Unknown(dict[str, str]):
    """Has a question mark for what it does not know, and says that it did."""

    missed = False

    def __missing__(self, name: str) -> str:
        self.missed = True
        return "?"


def shown(name: str, value: float) -> str:
    """A number with its unit, which the end of its name tells."""
    if name.endswith("_s"):
        return _duration(value)
    if name.endswith("_bytes"):
        return _size(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _size(size_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB"


def printable(words: str) -> str:
    """The same, shortened, with escapes in place of what a terminal might obey."""
    if len(words) > WORDS_MAX:
        words = words[: WORDS_MAX - 1] + "…"
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
