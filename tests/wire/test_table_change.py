"""What is other in a table than in another one, and back."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplex.wire import messages
from modelplex.wire.messages import AppInfo, DeploymentInfo, ReplicaInfo, ReplicasChange, Table, TableChange
from modelplex.wire.table_change import applied, change_of

names = st.sampled_from("abc")
replicas = st.dictionaries(st.sampled_from("uvwxyz"), st.sampled_from(["/1", "/2"])).map(
    lambda found: [ReplicaInfo(*replica) for replica in found.items()]
)
infos = st.builds(DeploymentInfo, names, names, st.sampled_from([1, 2]), replicas)
apps = st.lists(st.builds(AppInfo, names, st.none(), names), max_size=2)
tables = st.builds(Table, apps, st.lists(infos, max_size=4, unique_by=lambda info: (info.app_name, info.name)))


def sorted_table(table: Table) -> Table:
    """The order of deployments and replicas says nothing."""
    deployments = [
        msgspec.structs.replace(info, replicas=sorted(info.replicas, key=lambda replica: replica.replica_id))
        for info in sorted(table.deployments, key=lambda info: (info.app_name, info.name))
    ]
    return Table(table.apps, deployments)


@given(tables, tables)
def test_a_table_and_its_change_make_the_other_table(before: Table, after: Table) -> None:
    change = change_of(before, after)
    if change is None:
        assert sorted_table(before) == sorted_table(after)
    else:
        sent = messages.decode(messages.encode(change))
        assert isinstance(sent, TableChange)
        assert sorted_table(applied(before, sent)) == sorted_table(after)


@given(tables)
def test_the_same_table_is_no_change(table: Table) -> None:
    assert change_of(table, messages.decode(messages.encode(table))) is None  # type: ignore[arg-type]


def table_of(ids: range, app: str = "app", queued_max: int = 5) -> Table:
    found = [ReplicaInfo(f"app_D#{number}", f"/run/{number}.sock") for number in ids]
    return Table([AppInfo(app, "/", "D")], [DeploymentInfo(app, "D", queued_max, found)])


def test_one_replica_more_is_all_that_is_said() -> None:
    change = change_of(table_of(range(1000)), table_of(range(1001)))
    come = ReplicaInfo("app_D#1000", "/run/1000.sock")
    assert change == TableChange(replicas=[ReplicasChange("app", "D", [come], [])])


def test_a_replica_at_another_address_has_come_anew() -> None:
    before, after = table_of(range(2)), table_of(range(2))
    after.deployments[0].replicas[1].address = "elsewhere"
    change = change_of(before, after)
    assert change == TableChange(replicas=[ReplicasChange("app", "D", [ReplicaInfo("app_D#1", "elsewhere")], [])])
    assert applied(before, change) == after


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: table_of(range(1, 3)), "replicas"),
        (lambda: table_of(range(3), queued_max=6), "deployments"),
        (lambda: Table(table_of(range(3)).apps, []), "removed"),
        (lambda: Table([], table_of(range(3)).deployments), "apps"),
    ],
)
def test_only_what_is_other_is_said(make: Callable[[], Table], said: str) -> None:
    change = change_of(table_of(range(3)), make())
    assert change is not None
    assert [f for f in ("apps", "deployments", "removed", "replicas") if getattr(change, f) not in (None, [])] == (
        [said] if said != "apps" else []
    )
    assert (change.apps == []) == (said == "apps")
