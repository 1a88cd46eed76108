"""A class of the user's that chooses replicas, in real proxies and by HTTP."""

import collections

import pytest
from served import serving, wait_until

pytestmark = pytest.mark.system


def test_the_proxies_of_a_program_send_requests_where_the_users_class_says() -> None:
    with serving("routed:app", proxies=2) as served:
        wait_until(lambda: len({served.call("m0").replica for _ in range(5)}) == 1, "all replicas are known")
        replies = [served.call(f"m{number % 9}") for number in range(90)]
        assert {reply.status for reply in replies} == {200}
        homes: dict[int, set[str]] = collections.defaultdict(set)
        for number, reply in enumerate(replies):
            homes[number % 9 % 3].add(reply.replica)
        assert [len(homes[rest]) for rest in range(3)] == [1, 1, 1]
        assert len(set.union(*homes.values())) == 3
        assert "request_router_class" not in served.log


def test_a_class_that_raises_is_told_of_once_in_each_proxy_and_requests_are_answered() -> None:
    with serving("routed:app", ROUTER="routed_choosers:Broken") as served:
        assert [served.call(f"m{number % 4}").status for number in range(40)] == [200] * 40
        assert served.log.count("The request_router_class of default_Routed has failed") == 1
        assert served.log.count("ValueError: cannot choose for m0") == 1


def test_a_class_that_cannot_be_imported_is_told_of_and_requests_are_answered() -> None:
    with serving("routed:app", ROUTER="routed_choosers:Missing") as served:
        assert [served.call(f"m{number % 4}").status for number in range(40)] == [200] * 40
        assert served.log.count("The request_router_class of default_Routed cannot be made") == 1
        assert "has no attribute 'Missing'" in served.log
