"""Which models have series, and that what is said of them never goes backwards."""

from typing import Any

from modelplex.runtime import metric_families as families
from modelplex.runtime.busiest_models import BusiestModels


def said(replica: str, **uses: int) -> list[dict[str, Any]]:
    tags = {"application": "a", "deployment": "d", "replica": replica}
    rows = [({**tags, "model_id": model_id}, count) for model_id, count in uses.items()]
    return [
        families.MODEL_USES.of(*rows),
        families.MODEL_LOADS.of(*((own, 1) for own, _ in rows)),
        families.MODEL_BYTES.of(*((own, 7) for own, _ in rows)),
        families.RAY_MODEL.of(*((own, 1) for own, _ in rows)),
        families.ONGOING.of((tags, 0)),
    ]


def uses(taken: list[dict[str, Any]]) -> dict[str, float]:
    metric = next(metric for metric in taken if metric["name"] == families.MODEL_USES.name)
    return {one["tags"]["model_id"]: one["value"] for one in metric["series"]}


def test_a_total_goes_on_when_its_replica_ends_or_begins_anew() -> None:
    models = BusiestModels()
    assert uses(models.take({"r1": said("r1", m=5), "r2": said("r2", m=2)}, 0)) == {"m": 7}
    assert uses(models.take({"r2": said("r2", m=3)}, 10)) == {"m": 8}
    assert uses(models.take({"r2": said("r2", m=1)}, 20)) == {"m": 9}  # it has forgotten
    assert uses(models.take({"r2": said("r2", m=1)}, 30)) == {"m": 9}


def test_a_process_that_is_silent_for_a_while_is_not_counted_twice() -> None:
    models = BusiestModels()
    models.take({"r1": said("r1", m=5), "r2": said("r2", m=2)}, 0)
    assert uses(models.take({"r2": said("r2", m=2)}, 10)) == {"m": 7}
    assert uses(models.take({"r1": said("r1", m=6), "r2": said("r2")}, 20)) == {"m": 8}
    assert uses(models.take({"r1": said("r1", m=6), "r2": said("r2", m=4)}, 30)) == {"m": 10}
    models.take({"r1": said("r1", m=6)}, 1000)
    assert list(models._told) == ["r1"]


def test_no_more_than_the_busiest_have_series_of_whatever_kind() -> None:
    models = BusiestModels(models_max=3)
    everybody = {f"m{number}": number for number in range(50)}
    snapshots = {"r1": said("r1", **everybody), "r2": said("r2", **everybody)}
    taken = models.take(snapshots, 0)
    assert uses(taken) == {"m49": 98, "m48": 96, "m47": 94}
    assert all(len(metric["series"]) == 3 for metric in taken if metric["name"] != families.RAY_MODEL.name)
    assert len(next(m for m in taken if m["name"] == families.RAY_MODEL.name)["series"]) == 6  # on two replicas
    # The rest of what processes say is left alone.
    assert [metric["name"] for metric in snapshots["r1"]] == [families.ONGOING.name]


def test_series_do_not_come_and_go_with_small_differences() -> None:
    models = BusiestModels(models_max=1)
    counts = {"a": 10, "b": 9}
    models.take({"r": said("r", **counts)}, 0)
    for step in range(1, 40):  # now the one is a little ahead, now the other
        counts["a" if step % 2 else "b"] += 2
        assert list(uses(models.take({"r": said("r", **counts)}, step))) == ["a"]
    counts["b"] += 1000
    assert uses(models.take({"r": said("r", **counts)}, 40)) == {"b": counts["b"]}


def test_what_was_busy_long_ago_makes_place() -> None:
    models = BusiestModels(models_max=1)
    models.take({"r": said("r", old=1000, new=0)}, 0)
    assert uses(models.take({"r": said("r", old=1000, new=30)}, 7200)) == {"new": 30}


def test_what_is_remembered_is_bounded() -> None:
    models = BusiestModels(models_max=2)
    for step in range(100):
        models.take({"r": said("r", **{f"m{step}-{n}": n for n in range(20)})}, step)
    assert len(models._known) <= 2 * 20 + 20 + 2
    assert len(models._told["r"].values) <= 3 * 2 * 20
