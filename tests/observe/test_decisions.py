"""The rings of what was decided: what they keep, who is answered what, and that it is safe to print."""

import json
import math
import time
from typing import Any

import pytest

from modelplex.context import RequestContext
from modelplex.core.reasons import Rule
from modelplex.observe import decision_texts
from modelplex.observe.decision_texts import WORDS_MAX, printable, shown, text_of
from modelplex.observe.decisions import LIMIT, LIMIT_MAX, Decisions
from modelplex.wire.messages import Begin


def routed(decisions: Decisions, request_id: str, model_id: str = "m", at: float = 1.0) -> None:
    decisions.routes.append((at, request_id, model_id, "app_D#r", Rule.ONLY_HOLDER, {}, 2, 5))


def texts(decisions: Decisions, **asked: Any) -> list[str]:
    return [each["text"] for each in decisions.answer(asked)]


def ids(decisions: Decisions, **asked: Any) -> list[str]:
    return [each["request_id"] for each in decisions.answer(asked)]


def test_rings_are_bounded_and_what_is_rare_is_not_flushed_by_what_is_not() -> None:
    decisions = Decisions(routine_max=3, rare_max=2)
    for number in range(4):
        decisions.note("evict", "room", model_id=f"e{number}")
    for number in range(100):
        routed(decisions, f"r{number}", at=number)
        begin = Begin(0, f"r{number}", "app", "/", "f", "m", False)
        decisions.ended(begin, RequestContext("r", "", "", ""), number, 0.0, ok=True)
    answer = decisions.answer({"limit": 1000})
    assert [each["model_id"] for each in answer if each["kind"] == "evict"] == ["e3", "e2"]
    assert [each["request_id"] for each in answer if each["kind"] == "route"] == ["r99", "r98", "r97"]
    assert [each["request_id"] for each in answer if each["kind"] == "end"] == ["r99", "r98", "r97"]


def test_an_answer_is_json_with_all_that_was_promised() -> None:
    decisions = Decisions("proxy#1")
    routed(decisions, "r1", at=7.5)
    [answer] = json.loads(json.dumps(decisions.answer({})))
    assert answer == {
        "at": 7.5,
        "process": "proxy#1",
        "kind": "route",
        "request_id": "r1",
        "model_id": "m",
        "replica": "app_D#r",
        "why": "only_holder",
        "numbers": {"taken": 2, "slots": 5},
        "text": "sent to app_D#r: it holds the model, 2 of 5 slots are taken",
    }


def test_answers_are_newest_first_whichever_ring_they_come_from() -> None:
    decisions, now = Decisions(), time.time()
    routed(decisions, "old", at=now - 10)
    decisions.note("wait", "free_slots", request_id="middle")
    routed(decisions, "new", at=now + 10)
    assert ids(decisions) == ["new", "middle", "old"]
    assert ids(decisions, limit=2) == ["new", "middle"]
    assert ids(decisions, since=now - 5) == ["new", "middle"]
    assert ids(decisions, since=now + 5) == ["new"]


@pytest.mark.parametrize(("limit", "count"), [(None, LIMIT), (0, LIMIT), (7, 7), (10**9, LIMIT_MAX)])
def test_no_answer_is_longer_than_was_asked_for_or_may_be(limit: int | None, count: int) -> None:
    decisions = Decisions()
    for number in range(2000):
        routed(decisions, f"r{number}")
    assert len(decisions.answer({"limit": limit})) == count


def test_those_of_a_request_and_those_of_a_model() -> None:
    decisions = Decisions()
    routed(decisions, "r1", "a")
    routed(decisions, "r2", "b")
    decisions.note("evict", "room", request_id="r2", model_id="a", words={"for_model": "b"})
    assert [each["kind"] for each in decisions.answer({"request_id": "r2"})] == ["evict", "route"]
    assert [each["kind"] for each in decisions.answer({"model_id": "a"})] == ["evict", "route"]
    assert [each["model_id"] for each in decisions.answer({"model_id": "b"})] == ["a", "b"]
    assert decisions.answer({"request_id": "r1", "model_id": "b"}) == []
    assert decisions.answer({"request_id": "unknown"}) == []


def test_who_joins_a_load_is_told_of_it_but_not_of_the_others_who_joined() -> None:
    decisions = Decisions()
    decisions.note("evict", "room", request_id="first", model_id="a", load=3)
    decisions.note("load", "demand", request_id="first", model_id="m", load=3)
    decisions.note("wait", "load", request_id="second", model_id="m", load=3)
    decisions.note("wait", "load", request_id="third", model_id="m", load=3)
    decisions.note("loaded", "loaded", request_id="first", model_id="m", load=3)
    decisions.note("loaded", "loaded", request_id="first", model_id="other", load=4)
    found = decisions.answer({"request_id": "second"})
    assert [(each["kind"], each["model_id"]) for each in reversed(found)] == [
        ("evict", "a"),
        ("load", "m"),
        ("wait", "m"),
        ("loaded", "m"),
    ]


@pytest.mark.parametrize("argument", [None, [], "r1", {"limit": None}])
def test_whatever_is_asked_is_answered(argument: object) -> None:
    decisions = Decisions()
    routed(decisions, "r1")
    assert len(decisions.answer(argument)) == 1


@pytest.mark.parametrize(
    ("start", "ok", "why"), [("cold", True, "cold"), ("", True, "none"), ("warm", False, "failed")]
)
def test_how_a_request_ended(start: str, why: str, *, ok: bool) -> None:
    decisions = Decisions()
    begin = Begin(0, "r1", "app", "/", "f", "m", False, arrived_at=98.0)
    request = RequestContext("r1", "app", "/", "f", start=start, load_s=0.5)
    decisions.ended(begin, request, 100.0, 1.5, ok=ok)
    [answer] = decisions.answer({})
    assert (answer["kind"], answer["why"], answer["request_id"]) == ("end", why, "r1")
    assert answer["numbers"] == pytest.approx({"queue_s": 0.5, "load_s": 0.5, "run_s": 1.0})


# Words


def test_a_sentence_leaves_out_what_is_not_known_or_is_nothing() -> None:
    words = {"model": "a", "for_model": "b", "policy": "used longest ago"}
    numbers = {"idle_s": 12.0, "uses": 4, "size_bytes": 0, "idle_models": 3}
    whole = "evicted a (idle for 12 s, used 4 times) to make room for b, used longest ago of 3 idle"
    assert text_of("evict", "room", numbers, words) == whole
    assert text_of("evict", "room", {**numbers, "size_bytes": 7e7}, words) == f"{whole}, 70 MB come free"
    assert text_of("evict", "room", {"idle_s": 0.0, "uses": 0}, words) == (
        "evicted a (idle for 0 ms, never used) to make room for b"
    )


def test_of_one_candidate_it_is_not_said_that_it_is_the_best() -> None:
    numbers = {"harm_s": 1.0, "harm_max_s": 2.0, "load_s": 3.0}
    some = text_of("route", "least_harm", {**numbers, "candidates": 2}, {"replica": "r"})
    assert some.endswith("1 s against 2 s at most, the best of 2 looked at, a load is expected to take 3 s")
    one = text_of("route", "least_harm", {**numbers, "candidates": 1}, {"replica": "r"})
    assert one.endswith("costs least, a load is expected to take 3 s")


def test_every_rule_has_words_and_so_has_what_nobody_has_thought_of() -> None:
    known = set(decision_texts._TEXTS)
    assert {f"route/{rule}" for rule in Rule} - known == {"route/no_replica"}, "nothing is sent where there is none"
    assert text_of("new", "thing", {}, {}) == "new: thing"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("wait_s", 0.0123, "12.3 ms"),
        ("wait_s", 12.0, "12 s"),
        ("wait_s", 3600.0, "60 min"),
        ("size_bytes", 999, "999 bytes"),
        ("size_bytes", 1_500_000, "1.5 MB"),
        ("size_bytes", 2.5e12, "2.5e+03 GB"),
        ("holders", 3, "3"),
    ],
)
def test_numbers_have_units(name: str, value: float, text: str) -> None:
    assert shown(name, value) == text


@pytest.mark.parametrize("hostile", ["\x1b[31mred", "two\nlines", "\u202eleft", "\x00", "\ud800", "x" * 100_000])
def test_what_others_say_can_do_no_harm_to_a_terminal(hostile: str) -> None:
    assert printable(hostile).isprintable()
    assert len(printable(hostile)) <= WORDS_MAX
    decisions = Decisions()
    decisions.note("load_failed", "ValueError", request_id=hostile, model_id=hostile, words={"error": hostile})
    [answer] = decisions.answer({})
    said = (answer["request_id"], answer["model_id"], answer["text"])
    assert all(text.isprintable() and len(text) < 1000 for text in said)
    json.dumps(answer).encode()


def test_what_json_cannot_say_is_left_out() -> None:
    decisions = Decisions()
    decisions.note("wait", "copy", numbers={"wait_s": math.inf, "copy_s": math.nan, "ahead": 1})
    [answer] = decisions.answer({})
    assert answer["numbers"] == {"ahead": 1}


def test_braces_in_what_others_say_are_only_braces() -> None:
    assert text_of("load_failed", "E", {}, {"model": "{error}", "error": "{model} {0.x}"}) == (
        "{error} could not be loaded, {model} {0.x}"
    )
