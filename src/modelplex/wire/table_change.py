"""What is other in one table than in another, and the table that comes of it: a process is told all of it only once."""

import msgspec

from modelplex.wire.messages import DeploymentInfo, ReplicaInfo, ReplicasChange, Table, TableChange

_Key = tuple[str, str]


def change_of(before: Table, after: Table) -> TableChange | None:
    """What makes the one into the other; None if they say the same."""
    known = _by_key(before)
    change = TableChange(apps=None if after.apps == before.apps else after.apps)
    for key, info in _by_key(after).items():
        was = known.pop(key, None)
        if was is None or _with(was, info.replicas) != info:
            change.deployments.append(info)
        elif was.replicas != info.replicas:
            change.replicas.append(_replicas_change(was, info))
    change.removed.extend(known)
    return change if change != TableChange() else None


def applied(table: Table, change: TableChange) -> Table:
    """The table after the change; what has not changed is the same object."""
    deployments = _by_key(table)
    for key in change.removed:
        deployments.pop(key, None)
    for info in change.deployments:
        deployments[info.app_name, info.name] = info
    for replicas in change.replicas:
        key = (replicas.app_name, replicas.deployment)
        gone = {*replicas.gone, *(replica.replica_id for replica in replicas.come)}
        stay = [replica for replica in deployments[key].replicas if replica.replica_id not in gone]
        deployments[key] = _with(deployments[key], stay + replicas.come)
    return Table(table.apps if change.apps is None else change.apps, list(deployments.values()))


def _replicas_change(before: DeploymentInfo, after: DeploymentInfo) -> ReplicasChange:
    known = {replica.replica_id: replica.address for replica in before.replicas}
    come = [replica for replica in after.replicas if known.pop(replica.replica_id, None) != replica.address]
    return ReplicasChange(after.app_name, after.name, come, list(known))


def _by_key(table: Table) -> dict[_Key, DeploymentInfo]:
    return {(info.app_name, info.name): info for info in table.deployments}


def _with(info: DeploymentInfo, replicas: list[ReplicaInfo]) -> DeploymentInfo:
    return msgspec.structs.replace(info, replicas=replicas)
