import random

import pytest

from modelplex.core import transfer
from modelplex.core.transfer import Read, Transfer

BLOCK = 10


class Reader:
    """Plays the requests of one transfer, and holds what has to hold after every step."""

    def __init__(self, size_bytes: int, arrived: set[int], requests_max: int) -> None:
        self.transfer = Transfer(size_bytes, BLOCK, arrived, requests_max)
        self.size_bytes = size_bytes
        self.requests_max = requests_max
        self.have = set(arrived)
        self.blocks = -(-size_bytes // BLOCK)
        self.now = 0.0
        self.open: dict[int, Read] = {}
        self.at: dict[int, int] = {}
        self.given_up = False
        self.begin(self.transfer.start())

    def begin(self, reads: list[Read] | None) -> None:
        if reads is None:
            self.given_up = True
            return
        for read in reads:
            assert read.request not in self.open
            assert 0 <= read.start < read.end <= self.size_bytes
            assert read.start % BLOCK == 0
            assert read.end % BLOCK == 0 or read.end == self.size_bytes
            self.open[read.request] = read
            self.at[read.request] = read.start // BLOCK
        assert len(self.open) <= self.requests_max
        assert self.open or self.transfer.done

    def arrive(self, request: int) -> None:
        block = self.at[request]
        assert block not in self.have, "each block is asked for once"
        self.have.add(block)
        self.at[request] += 1
        if not self.transfer.arrived(request, self.now):
            self.end(request)

    def end(self, request: int) -> None:
        del self.open[request]
        self.begin(self.transfer.over(request))


def test_a_file_is_read_by_one_request_from_its_start_to_its_end() -> None:
    reader = Reader(35, set(), 8)
    assert list(reader.open.values()) == [Read(1, 0, 35)]
    for _ in range(4):
        reader.arrive(1)
    assert reader.transfer.done
    assert not reader.open


def test_an_empty_file_needs_no_request() -> None:
    reader = Reader(0, set(), 8)
    assert reader.transfer.done


def test_what_is_there_already_is_not_read_again() -> None:
    reader = Reader(60, {0, 3}, 1)
    assert list(reader.open.values()) == [Read(1, 10, 30)]
    reader.arrive(1)
    reader.arrive(1)
    assert list(reader.open.values()) == [Read(2, 40, 60)]


def test_others_join_when_one_request_is_slow_and_share_what_is_left() -> None:
    reader = Reader(10_000, set(), 8)
    reader.arrive(1)
    while not reader.transfer.done:
        for request in list(reader.open):  # four blocks a second for each
            for _ in range(4):
                if request in reader.open:
                    reader.arrive(request)
        reader.now += 1.0
        reader.begin(reader.transfer.tick(reader.now))
        assert len(reader.open) == 8 or reader.now > 25
    assert reader.now < 40, "one alone would need 250 seconds"
    assert reader.transfer.requests_good == 8


def test_others_that_do_not_pay_end_with_their_runs() -> None:
    reader = Reader(10_000, set(), 8)
    reader.arrive(1)
    dice = random.Random(1)
    counts = []
    while not reader.transfer.done:
        for _ in range(8):  # blocks a second, however many requests there are
            if reader.open:
                reader.arrive(dice.choice(list(reader.open)))
        reader.now += 1.0
        reader.begin(reader.transfer.tick(reader.now))
        counts.append(len(reader.open))
    assert counts[0] == 8
    assert counts == sorted(counts, reverse=True), "nobody takes the place of one that has ended"
    assert reader.transfer.requests_good == 1


def test_no_request_joins_for_a_rest_that_takes_no_time() -> None:
    reader = Reader(10_000, set(), 8)
    for _ in range(900):
        reader.arrive(1)
    assert reader.transfer.tick(1.0) == []


def test_a_request_that_brings_nothing_is_tried_again_later_each_time_and_given_up_at_last() -> None:
    reader = Reader(35, set(), 8)
    delays = []
    for request in range(1, transfer.TRIES_MAX):
        reader.end(request)
        delays.append(reader.open[request + 1].delay_s)
    assert delays == [0.2, 0.4, 0.8, 1.6]
    reader.end(transfer.TRIES_MAX)
    assert reader.given_up


def test_what_arrives_lets_the_tries_begin_anew() -> None:
    reader = Reader(1_000, set(), 8)
    for request in range(1, 50):
        reader.arrive(request)
        reader.end(request)
    assert not reader.given_up
    assert list(reader.open.values()) == [Read(50, 490, 1_000, 0.2)]


@pytest.mark.parametrize("seed", range(200))
def test_random_histories_read_each_block_once(seed: int) -> None:
    dice = random.Random(seed)
    blocks = dice.randrange(1, 300)
    arrived = set(dice.sample(range(blocks), dice.randrange(blocks)))
    size_bytes = blocks * BLOCK - dice.randrange(BLOCK)
    reader = Reader(size_bytes, arrived, dice.choice([1, 2, 8]))
    now = 0.0
    while not reader.transfer.done and not reader.given_up:
        reader.now = now = now + dice.random()
        request = dice.choice(list(reader.open))
        step = dice.random()
        if step < 0.1:
            reader.end(request)
        elif step < 0.3:
            reader.begin(reader.transfer.tick(now))
        else:
            reader.arrive(request)
    if not reader.given_up:
        assert reader.have == set(range(blocks))
        assert not reader.open


def test_no_request_joins_one_that_is_as_fast_as_any_line() -> None:
    fast = Transfer(2**34, 2**22, (), 8)
    assert len(fast.start()) == 1
    for _ in range(61):  # 250 MB
        fast.arrived(1, 0.0)
    assert fast.tick(1.0) == []
    slow = Transfer(2**34, 2**22, (), 8)
    slow.start()
    for _ in range(20):
        slow.arrived(1, 0.0)
    assert len(slow.tick(1.0)) == 7


def test_the_next_file_begins_with_as_many_requests_as_paid() -> None:
    following = Transfer(10_000, BLOCK, (), 8, requests_first=8)
    ranges = sorted((read.start, read.end) for read in following.start())
    assert ranges == [(1_250 * i, 1_250 * (i + 1)) for i in range(8)], "nobody asks for what another one reads"
    assert following.requests_good == 8
    assert len(Transfer(20, BLOCK, (), 8, requests_first=8).start()) == 1


def test_where_one_request_is_fast_the_next_file_begins_with_one() -> None:
    fast = Transfer(2**34, 2**22, (), 8, requests_first=4)
    assert len(fast.start()) == 4
    for request in (1, 2, 3, 4):
        for _ in range(60):
            fast.arrived(request, 0.0)
    assert fast.tick(1.0) == []
    assert fast.requests_good == 1
