"""Which replicas stop first."""

import pytest

from modelplex.core.replica_load import ReplicaLoad, stop_order


def replica(models: str = "", ongoing: float = 0.0, age_s: float = 10.0) -> ReplicaLoad:
    """Written as `a5 b0`: the models with their uses."""
    return ReplicaLoad(ongoing=ongoing, models={m[0]: float(m[1:]) for m in models.split()}, age_s=age_s)


@pytest.mark.parametrize(
    ("replicas", "order"),
    [
        ({}, ""),
        ({"x": replica("a1")}, "x"),
        # One whose models are elsewhere too goes before one with the only copy, however much it runs.
        ({"x": replica("a1"), "y": replica("b1", ongoing=9), "z": replica("b1", ongoing=9.5)}, "yxz"),
        # An only copy of what nobody uses holds nothing back.
        ({"x": replica("a0", ongoing=1), "y": replica("b0"), "z": replica("c1")}, "yxz"),
        # Then the least demand lost, over all models that are only there.
        ({"x": replica("a3 b3"), "y": replica("c5"), "z": replica("d1 e1")}, "zyx"),
        # Of two copies only one is free; the other is then the only one, with the uses of both.
        ({"x": replica("a1"), "y": replica("a4"), "z": replica("b4")}, "xzy"),
        ({"x": replica("a0"), "y": replica("a9", ongoing=5), "z": replica("b4")}, "xzy"),
        # A copy that is idle itself may be the last one of a model that is used.
        ({"x": replica("a9 b1", ongoing=1), "y": replica("a0 c0"), "z": replica("b5 d0")}, "yzx"),
        # Then the fewest ongoing, then the newest, then the id.
        ({"x": replica(ongoing=2), "y": replica(ongoing=1), "z": replica(ongoing=1.5)}, "yzx"),
        ({"x": replica(age_s=3), "y": replica(age_s=1), "z": replica(age_s=2)}, "yzx"),
        ({"z": replica(), "x": replica(), "y": replica()}, "xyz"),
        # One that has not reported has nothing to lose.
        ({"x": replica("a0"), "y": ReplicaLoad()}, "yx"),
    ],
)
def test_the_order(replicas: dict[str, ReplicaLoad], order: str) -> None:
    assert stop_order(replicas) == list(order)
    for count in range(len(replicas) + 2):
        assert stop_order(replicas, count) == list(order)[:count]
