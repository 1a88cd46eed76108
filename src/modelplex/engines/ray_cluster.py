"""What Ray says of its cluster, and keeps for it.

Some of it stands in no public interface of Ray's: all of that is here.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray._private import state as ray_state
from ray._private import worker as ray_worker
from ray._private.runtime_env.packaging import pin_runtime_env_uri
from ray._private.runtime_env.working_dir import upload_working_dir_if_needed
from ray.experimental import internal_kv

from modelplex.errors import ModelplexError
from modelplex.runtime.engine import Machine

# Of the actors, the placement groups and what is kept: nobody else's are in it.
NAMESPACE = "modelplex"

# The head of a cluster is the machine with this resource.
_HEAD = "node:__internal_head__"

# Each machine has 1 of each resource whose name begins like this, without having been told of it.
_IMPLICIT = "node:__internal_implicit_resource_"

# How the names of placement groups begin.
_GROUP = "modelplex:"

# The smallest share of a resource is one of so many.
_PARTS = 10_000


def machines() -> list[Machine]:
    """Those that live. It asks the head, and blocks until that has answered."""
    draining = ray_state.state.get_draining_nodes()
    return [
        Machine(node["NodeID"], _HEAD in node["Resources"], node["NodeID"] in draining)
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def head() -> str | None:
    """The head's name, if it has said already that it is there."""
    return next((machine.name for machine in machines() if machine.is_head), None)


def this_machine() -> str:
    name: str = ray.get_runtime_context().get_node_id()
    return name


def this_host() -> str:
    """Where other machines of the cluster reach this one."""
    host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return host


def log_dir() -> str:
    """The folder on this machine that Ray's dashboard shows the logs of."""
    node: Any = ray_worker._global_node
    return f"{node.get_logs_dir_path()}/modelplex"


def at_most_each(app_name: str, deployment: str, replicas_max: int) -> dict[str, float]:
    """Resources of which each machine has enough for so many replicas of a deployment."""
    # Ray rounds to the nearest 1/10,000, and six of the nearest to 1/6 are more than 1.
    share = _PARTS // replicas_max / _PARTS
    return {f"{_IMPLICIT}modelplex:{app_name}:{deployment}": share}


def actors_of(class_name: str) -> list[str]:
    """The names of the actors of a class that live, or wait for a place."""
    alive = {a["Name"] for a in ray_state.actors().values() if a["ActorClassName"] == class_name}
    named = ray.util.list_named_actors(all_namespaces=True)
    return [each["name"] for each in named if each["namespace"] == NAMESPACE and each["name"] in alive]


def group_name(replica_id: str) -> str:
    """Of the placement group of a replica."""
    return f"{_GROUP}{replica_id}"


def groups() -> list[str]:
    """The replicas that have placement groups."""
    table = ray.util.placement_group_table().values()
    names = [group["name"] for group in table if group["state"] != "REMOVED"]
    return [name.removeprefix(_GROUP) for name in names if name.startswith(_GROUP)]


def remove_group(replica_id: str) -> None:
    """Nothing happens if it has none."""
    with contextlib.suppress(ValueError):
        ray.util.remove_placement_group(ray.util.get_placement_group(group_name(replica_id)))


def remove_own_group() -> None:
    """That of this process, which ends with it."""
    if (group := ray.util.get_current_placement_group()) is not None:
        ray.util.remove_placement_group(group)


def job_environment() -> Mapping[str, Any]:
    """The `runtime_env` of this program; its folders have been uploaded."""
    environment: Mapping[str, Any] = ray.get_runtime_context().runtime_env
    return dict(environment)


def keep(key: str, data: bytes) -> None:
    """Have the head keep this, for as long as the cluster lives."""
    internal_kv._internal_kv_put(key.encode(), data, overwrite=True, namespace=NAMESPACE.encode())


def kept(key: str) -> bytes | None:
    data: bytes | None = internal_kv._internal_kv_get(key.encode(), namespace=NAMESPACE.encode())
    return data


def forget(key: str) -> None:
    internal_kv._internal_kv_del(key.encode(), namespace=NAMESPACE.encode())


def upload(folder: str) -> str:
    """Have the head keep a folder; answers the `working_dir` by which all machines find it.

    What its .gitignore names is left out. Raises `ModelplexError` if it is too large for that.
    """
    try:
        with tempfile.TemporaryDirectory() as scratch:
            # Where that is below the folder, what is packed would be packed again, and again.
            given = {"working_dir": folder, "excludes": [f"/{os.path.relpath(scratch, folder)}"]}
            found = upload_working_dir_if_needed(given, True, scratch_dir=scratch)
    except Exception as error:  # Ray raises what it finds
        raise ModelplexError(f"{folder} cannot be sent to the cluster: {error}") from error
    return str(found["working_dir"])


def hold(environments: Iterable[Mapping[str, Any]], for_s: int) -> None:
    """Have the head keep the uploaded folders for so long, also while no process uses them."""
    for environment in environments:
        for uri in (environment.get("working_dir"), *(environment.get("py_modules") or ())):
            if isinstance(uri, str) and uri.startswith("gcs://"):
                pin_runtime_env_uri(uri, expiration_s=for_s)
