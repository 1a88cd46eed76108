"""What is counted on the request's way."""

import time

from modelplex.context import RequestContext
from modelplex.core.cache import Reason
from modelplex.runtime.meters import KINDS_MAX, OTHER, Buckets, Counts, RequestMeters
from modelplex.runtime.model_meters import REMEMBERED_MAX, ModelMeters
from modelplex.wire.messages import Begin, HTTPHead


def test_a_value_goes_into_the_bucket_whose_bound_it_does_not_pass() -> None:
    buckets = Buckets((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        buckets.observe(value)
    assert (buckets.counts, buckets.total) == ([2, 2, 1], 7.5)


def test_what_no_user_has_asked_for_is_no_request_but_a_protocol_of_clients_is() -> None:
    head = HTTPHead("POST", "/v2", b"/v2", b"", "", "http", "1.1", [], None, None)
    meters = RequestMeters(1)
    for http, method in ((None, "-/load"), (None, "__call__"), (head, "-/v2"), (head, "__call__")):
        begin = Begin(1, "r", "app", "/", method, "", False, http=http)
        meters.ended(begin, RequestContext("r", "app", "/", method), time.time(), 0.5, ok=True, answered=True)
    assert (meters.starts["none"].ok, sum(meters.run.counts)) == (3, 3)


def test_clocks_that_differ_make_no_time_below_zero() -> None:
    meters = RequestMeters(1)
    begin = Begin(1, "r", "app", "/", "__call__", "", False, arrived_at=time.time() + 100)
    meters.ended(begin, RequestContext("r", "app", "/", "m"), time.time(), 0.0, ok=False, answered=False)
    assert (meters.wait.total, meters.wait.counts[0], meters.starts["none"].cancelled) == (0.0, 1, 1)


def test_kinds_are_bounded() -> None:
    counts = Counts()
    for number in range(2 * KINDS_MAX):
        counts.add(f"Error{number}")
    assert len(counts) == KINDS_MAX + 1
    assert counts[OTHER] == KINDS_MAX
    assert sum(counts.values()) == 2 * KINDS_MAX


def test_a_model_that_comes_back_is_counted_on_unless_it_was_gone_for_very_long() -> None:
    meters = ModelMeters()
    meters.loaded("a", 1.0, 10)
    meters.used("a")
    meters.evicted("a", Reason.ROOM)
    meters.used("a")  # of one that is not loaded, nothing is kept
    meters.loaded("a", 2.0, 20)
    meters.used("a")
    assert (meters.of["a"].uses, meters.of["a"].loads, meters.of["a"].load_s) == (2, 2, 3.0)
    for number in range(REMEMBERED_MAX + 5):
        meters.loaded(f"m{number}", 1.0, 10)
        meters.evicted(f"m{number}", Reason.ROOM)
    assert len(meters.gone) == REMEMBERED_MAX
    assert "a" in meters.of  # what is loaded is never forgotten


def test_a_model_that_was_asked_to_go_is_so_only_if_that_is_why_it_went() -> None:
    meters = ModelMeters()
    for model_id, reason in (("a", Reason.RETIRED), ("b", Reason.ROOM), ("c", Reason.RETIRED)):
        meters.loaded(model_id, 1.0, 1)
        if model_id != "c":
            meters.sent_away.add(model_id)
        meters.evicted(model_id, reason)
    assert meters.evictions == {"asked": 1, "room": 1, "retired": 1}
    assert not meters.sent_away
