from modelplex.core.budget import UNLIMITED, Room, Sizes


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


def test_nothing_is_expected_while_nothing_is_known() -> None:
    assert Sizes().expected("a") == 0


def test_a_model_is_expected_to_have_its_last_size_and_a_new_one_the_average() -> None:
    sizes = Sizes()
    for model_id, size_bytes in [("a", 10), ("b", 20), ("a", 40)]:
        sizes.learn(model_id, size_bytes)
    assert [sizes.expected(model_id) for model_id in "abc"] == [40, 20, 30]
    assert ["a" in sizes, "c" in sizes] == [True, False]


def test_a_bounded_number_of_sizes_is_remembered_the_latest() -> None:
    sizes = Sizes(models_max=2)
    for model_id, size_bytes in [("a", 10), ("b", 20), ("a", 10), ("c", 30)]:
        sizes.learn(model_id, size_bytes)
    assert [model_id in sizes for model_id in "abc"] == [True, False, True]
    assert sizes.expected("b") == 20  # the average of the two others
