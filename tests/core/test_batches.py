"""Batches: each rule, then random histories, and planted bugs that they must find."""

import random
from collections.abc import Callable, Iterable

import pytest

from modelplex.core.batches import Batch, Batcher

HISTORIES = 300


def sizes(batches: list[Batch[int]]) -> list[tuple[str, list[int]]]:
    return [(batch.model_id, batch.calls) for batch in batches]


def test_a_whole_batch_begins_at_once() -> None:
    batcher: Batcher[int] = Batcher(3, 1.0, 1)
    assert [*batcher.add(1, "m", 0.0), *batcher.add(2, "m", 0.0)] == []
    assert sizes(batcher.add(3, "m", 0.0)) == [("m", [1, 2, 3])]
    assert len(batcher) == 0


def test_a_part_of_a_batch_begins_when_its_first_call_has_waited() -> None:
    batcher: Batcher[int] = Batcher(3, 1.0, 1)
    batcher.add(1, "m", 0.0)
    batcher.add(2, "m", 0.9)
    assert batcher.next_tick == 1.0
    assert batcher.tick(0.99) == []
    assert sizes(batcher.tick(1.0)) == [("m", [1, 2])]
    assert batcher.next_tick is None


def test_without_waiting_a_batch_begins_with_one_call_unless_others_run() -> None:
    batcher: Batcher[int] = Batcher(3, 0.0, 1)
    assert sizes(batcher.add(1, "m", 0.0)) == [("m", [1])]
    assert [batcher.add(n, "m", 0.0) for n in (2, 3)] == [[], []]
    assert sizes(batcher.ended(5.0)) == [("m", [2, 3])]


def test_models_are_never_mixed() -> None:
    batcher: Batcher[int] = Batcher(2, 1.0, 5)
    batcher.add(1, "a", 0.0)
    batcher.add(2, "b", 0.0)
    assert sizes(batcher.add(3, "b", 0.0)) == [("b", [2, 3])]
    assert sizes(batcher.tick(1.0)) == [("a", [1])]


def test_so_many_batches_run_at_a_time_over_all_models() -> None:
    batcher: Batcher[int] = Batcher(1, 0.0, 2)
    begun = [batch for n, model in enumerate("abc") for batch in batcher.add(n, model, 0.0)]
    assert sizes(begun) == [("a", [0]), ("b", [1])]
    assert batcher.running == 2
    assert batcher.next_tick is None
    assert sizes(batcher.ended(0.0)) == [("c", [2])]


def test_lines_take_turns_by_the_arrival_of_their_first_call() -> None:
    """A model that is asked for without a pause does not keep the others waiting."""
    batcher: Batcher[int] = Batcher(2, 0.0, 1)
    batcher.add(0, "hot", 0.0)
    batcher.add(1, "hot", 1.0)
    batcher.add(2, "rare", 2.0)
    for n in range(3, 9):
        batcher.add(n, "hot", float(n))
    assert sizes(batcher.ended(9.0)) == [("hot", [1, 3])]
    assert sizes(batcher.ended(9.0)) == [("rare", [2])]
    assert sizes(batcher.ended(9.0)) == [("hot", [4, 5])]


def test_a_whole_batch_goes_before_a_line_that_may_still_grow() -> None:
    batcher: Batcher[int] = Batcher(2, 10.0, 1)
    batcher.add(0, "x", 0.0)
    batcher.add(1, "x", 0.0)
    batcher.add(2, "young", 1.0)
    batcher.add(3, "whole", 2.0)
    batcher.add(4, "whole", 2.0)
    assert sizes(batcher.ended(3.0)) == [("whole", [3, 4])]


def test_a_call_that_leaves_is_in_no_batch_and_the_next_is_first() -> None:
    batcher: Batcher[int] = Batcher(3, 1.0, 1)
    for n in range(3):
        batcher.add(n, "m", n / 10) if n < 2 else None
    assert batcher.remove(0)
    assert batcher.next_tick == 1.1
    assert not batcher.remove(0)
    assert sizes(batcher.tick(1.1)) == [("m", [1])]
    assert not batcher.remove(1)


def test_a_line_that_all_have_left_is_nobodys_turn() -> None:
    batcher: Batcher[int] = Batcher(3, 1.0, 1)
    batcher.add(0, "m", 0.0)
    batcher.remove(0)
    assert batcher.next_tick is None
    assert batcher.tick(5.0) == []


@pytest.mark.parametrize(("size_max", "first"), [(10, [4, 5]), (9, [4, 5]), (8, [4])])
def test_a_size_of_its_own_fills_a_batch_up_to_the_limit(size_max: int, first: list[int]) -> None:
    batcher: Batcher[int] = Batcher(size_max, 1.0, 1, sum)
    begun = [batch for n in (4, 5, 6) for batch in batcher.add(n, "m", 0.0)]
    assert sizes(begun) == [("m", first)]


def test_a_call_that_is_larger_than_any_batch_is_refused() -> None:
    batcher: Batcher[int] = Batcher(5, 1.0, 1, sum)
    with pytest.raises(ValueError, match="size 6, and a batch at most 5"):
        batcher.add(6, "m", 0.0)
    assert len(batcher) == 0


def test_limits_may_change_while_calls_wait() -> None:
    batcher: Batcher[int] = Batcher(5, 10.0, 1)
    for n in range(3):
        batcher.add(n, "m", 0.0)
    batcher.size_max = 2
    assert sizes(batcher.tick(0.0)) == [("m", [0, 1])]
    batcher.wait_s = 1.0
    assert sizes(batcher.ended(1.0)) == [("m", [2])]


# Random histories


class BrokenError(AssertionError):
    pass


def must(holds: bool, what: str) -> None:
    if not holds:
        raise BrokenError(what)


def history(seed: int) -> None:
    """Calls come, leave and are answered; checks what must hold after every step."""
    rng = random.Random(seed)
    by_size, size_max, wait_s = rng.random() < 0.3, rng.choice([1, 3, 8]), rng.choice([0.0, 1.0, 5.0])
    running_max, models = rng.choice([1, 2, 4]), "abcdefg"[: rng.choice([1, 3, 7])]

    def size_of(calls: object) -> int:
        assert isinstance(calls, list)
        return sum(1 + call % 3 for call in calls)

    batcher: Batcher[int] = Batcher(max(3, size_max), wait_s, running_max, size_of if by_size else len)
    size = size_of if by_size else len
    now, numbers, running = 0.0, iter(range(10_000)), 0
    waiting: dict[int, tuple[str, float]] = {}

    def begin(batches: list[Batch[int]]) -> None:
        nonlocal running
        for batch in batches:
            running += 1
            must(bool(batch.calls), "a batch has calls")
            must(all(call in waiting for call in batch.calls), "who is in a batch waited until then")
            must({waiting[call][0] for call in batch.calls} == {batch.model_id}, "a batch has one model")
            must(batch.calls == sorted(batch.calls), "calls of a model keep their order")
            line = [call for call, (model, _) in waiting.items() if model == batch.model_id]
            must(line[: len(batch.calls)] == batch.calls, "nobody of a model is passed over")
            must(size(batch.calls) <= batcher.size_max, "a batch is no larger than it may be")
            rest = line[len(batch.calls) :]
            must(not rest or size([*batch.calls, rest[0]]) > batcher.size_max, "a batch takes all it has room for")
            arrived = waiting[batch.calls[0]][1]
            due = [at for _, at in waiting.values() if at + wait_s <= now]
            must(not due or arrived == min(due), "who has waited longest is first")
            must(
                arrived + wait_s <= now or bool(rest) or size(batch.calls) >= batcher.size_max - 2,
                "it is whole, or due",
            )
            for call in batch.calls:
                del waiting[call]

    for _ in range(150):
        step = rng.random()
        if step < 0.5:
            call = next(numbers)
            model = rng.choice(models)
            waiting[call] = model, now
            begin(batcher.add(call, model, now))
        elif step < 0.6 and waiting:
            call = rng.choice(list(waiting))
            del waiting[call]
            must(batcher.remove(call), "who waits can leave")
        elif step < 0.8 and running:
            running -= 1
            begin(batcher.ended(now))
        else:
            now += rng.choice([0.1, 1.0, 6.0])
            begin(batcher.tick(now))
        must(batcher.running == running, "what runs is counted")
        must(running <= running_max, "no more run than may")
        must(len(batcher) == len(waiting), "who waits is counted")
        if running < running_max and waiting:
            oldest = min(at for _, at in waiting.values())
            must(oldest + wait_s > now, "nobody who is due waits while a batch may begin")
            must(batcher.next_tick == oldest + wait_s, "it is looked at again when the first is due")
        else:
            must(batcher.next_tick is None, "no tick is asked for that could do nothing")
    while running or waiting:
        if running:
            running -= 1
            begin(batcher.ended(now))
        else:
            now += 10.0
            begin(batcher.tick(now))
    must(not batcher._lines and not batcher._models, "nothing is left behind")


def histories(seeds: Iterable[int]) -> None:
    for seed in seeds:
        try:
            history(seed)
        except BrokenError as error:
            raise BrokenError(f"seed {seed}: {error}") from error


def test_what_must_hold_holds_after_every_step() -> None:
    histories(range(HISTORIES))


def mixes_models(patch: pytest.MonkeyPatch) -> None:
    original = Batcher.add
    patch.setattr(Batcher, "add", lambda self, call, model_id, now: original(self, call, "", now))


def runs_one_too_many(patch: pytest.MonkeyPatch) -> None:
    original = Batcher.__init__

    def init(self: Batcher[int], size_max: int, wait_s: float, running_max: int, size_of: Callable[..., int]) -> None:
        original(self, size_max, wait_s, running_max + 1, size_of)

    patch.setattr(Batcher, "__init__", init)


def forgets_the_next_in_line(patch: pytest.MonkeyPatch) -> None:
    def new_head(self: Batcher[int], model_id: str) -> None:
        if not self._lines[model_id]:
            del self._lines[model_id]

    patch.setattr(Batcher, "_new_head", new_head)


def serves_the_hottest_first(patch: pytest.MonkeyPatch) -> None:
    def oldest(self: Batcher[int]) -> tuple[float, int, str] | None:
        line = max(self._lines, key=lambda m: len(self._lines[m]), default=None)
        return None if line is None else (self._arrival(line), 0, line)

    patch.setattr(Batcher, "_oldest", oldest)


def never_looks_again_after_a_batch(patch: pytest.MonkeyPatch) -> None:
    def ended(self: Batcher[int], now: float) -> list[Batch[int]]:
        self._running -= 1
        return []

    patch.setattr(Batcher, "ended", ended)


@pytest.mark.parametrize(
    "plant",
    [
        mixes_models,
        runs_one_too_many,
        forgets_the_next_in_line,
        serves_the_hottest_first,
        never_looks_again_after_a_batch,
    ],
)
def test_a_planted_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises((BrokenError, KeyError)):
        histories(range(HISTORIES))
