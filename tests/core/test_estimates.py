"""What is learned about durations, and what is expected of work that has begun."""

from itertools import pairwise

import pytest

from modelplex.core.estimates import MODELS_MAX, Estimates, rest_s


def test_what_has_just_begun_takes_what_is_expected() -> None:
    assert rest_s(4.0, 0.0) == 4.0


def test_in_its_first_half_the_rest_shrinks_with_time() -> None:
    assert rest_s(4.0, 1.0) == 3.0


def test_what_has_run_long_is_expected_to_run_as_long_again() -> None:
    assert rest_s(4.0, 2.0) == 2.0
    assert rest_s(4.0, 3.0) == 3.0
    assert rest_s(0.001, 4.0) == 4.0


def test_the_rest_is_never_negative_and_never_less_than_half_of_what_was_expected() -> None:
    rests = [rest_s(4.0, tenths / 10) for tenths in range(200)]
    assert min(rests) == pytest.approx(2.0)


def test_the_rest_does_not_jump() -> None:
    rests = [rest_s(4.0, hundredths / 100) for hundredths in range(2000)]
    assert all(abs(late - early) < 0.011 for early, late in pairwise(rests))


def test_before_anything_was_seen_the_given_values_are_expected() -> None:
    estimates = Estimates(load_s=3.0, service_s=0.2)
    assert (estimates.load_s("m"), estimates.average_load_s, estimates.service_s) == (3.0, 3.0, 0.2)


def test_the_first_that_is_seen_replaces_the_guess() -> None:
    estimates = Estimates(load_s=3.0, service_s=0.2)
    estimates.saw_load("m", 8.0)
    estimates.saw_service(0.5)
    assert (estimates.average_load_s, estimates.service_s) == (8.0, 0.5)


def test_a_model_that_was_never_loaded_is_expected_to_take_the_average() -> None:
    estimates = Estimates(load_s=3.0, service_s=0.2)
    estimates.saw_load("small", 1.0)
    estimates.saw_load("large", 9.0)
    assert estimates.load_s("small") == 1.0
    assert estimates.load_s("large") == 9.0
    assert estimates.load_s("other") == pytest.approx(5.0)


def test_a_model_is_expected_to_load_as_it_did_lately() -> None:
    estimates = Estimates(load_s=3.0, service_s=0.2)
    estimates.saw_load("m", 8.0)
    estimates.saw_load("m", 2.0)
    assert estimates.load_s("m") == 5.0
    for _ in range(20):
        estimates.saw_load("m", 2.0)
    assert estimates.load_s("m") == pytest.approx(2.0, abs=0.001)


def test_averages_forget_the_past() -> None:
    estimates = Estimates(load_s=3.0, service_s=0.2)
    for _ in range(1000):
        estimates.saw_service(10.0)
        estimates.saw_load("m", 10.0)
    for _ in range(100):
        estimates.saw_service(0.1)
        estimates.saw_load("m", 0.1)
    assert estimates.service_s == pytest.approx(0.1, abs=0.01)
    assert estimates.average_load_s == pytest.approx(0.1, abs=0.01)


def test_one_outlier_among_many_moves_the_average_by_a_tenth() -> None:
    estimates = Estimates(load_s=3.0, service_s=0.2)
    for _ in range(100):
        estimates.saw_service(1.0)
    estimates.saw_service(11.0)
    assert estimates.service_s == pytest.approx(2.0)


def test_only_so_many_models_are_remembered_and_those_unseen_for_longest_are_forgotten() -> None:
    estimates = Estimates(load_s=3.0, service_s=0.2)
    estimates.saw_load("first", 100.0)
    estimates.saw_load("second", 100.0)
    estimates.saw_load("first", 100.0)
    for number in range(MODELS_MAX - 1):
        estimates.saw_load(f"m{number}", 1.0)
    assert estimates.load_s("first") == 100.0
    assert estimates.load_s("second") == estimates.average_load_s != 100.0
