from modelplex.core.budget import UNLIMITED, Room


def test_a_model_fits_when_both_count_and_bytes_let_it() -> None:
    room = Room(2, 100, models=1, size_bytes=60)
    assert [room.fits(40), room.fits(41)] == [True, False]
    room.take(0)
    assert not room.fits(0)


def test_without_limits_everything_fits() -> None:
    room = Room(UNLIMITED, UNLIMITED, models=1000, size_bytes=1 << 60)
    assert room.fits(1 << 60)
    assert room.can_ever_fit(1 << 60)
    assert not room.overdrawn


def test_what_is_given_back_is_free_again() -> None:
    room = Room(1, 100)
    room.take(70)
    room.free(70)
    assert room == Room(1, 100)


def test_a_room_is_overdrawn_above_its_bytes_not_at_them() -> None:
    assert [Room(UNLIMITED, 100, size_bytes=taken).overdrawn for taken in (100, 101)] == [False, True]


def test_what_is_as_large_as_the_budget_can_fit_some_day() -> None:
    room = Room(UNLIMITED, 100, size_bytes=50)
    assert [room.can_ever_fit(100), room.can_ever_fit(101)] == [True, False]
