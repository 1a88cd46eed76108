"""How models on replicas are told of: what may be asked, and what is answered."""

import msgspec

ALL = -1


class ModelsAsked(msgspec.Struct, kw_only=True):
    """Which models are asked for.

    Attributes:
        application, deployment: only of these, if given.
        model: only those whose id matches: `*` stands for any text.
        after: only those whose ids come after this one, in order.
        limit: of each loader at most so many, those that come first; `ALL` for all.
    """

    application: str = ""
    deployment: str = ""
    model: str = ""
    after: str = ""
    limit: int = ALL


class ModelState(msgspec.Struct, kw_only=True):
    """One model on one replica.

    Attributes:
        id: the model itself, not one of its aliases.
        state: "waiting" for room, "loading", "settling" (loaded, while room is made for its size), "resident",
            "unloading".
        size_bytes: what it takes; what is expected of it until it is loaded.
        age_s: since when it is in this state, as far as that is known.
        idle_s: since when nobody uses it; null if somebody does, or it is not loaded.
        load_s: what its load took, or is expected to take.
        uses: requests that got it since it was loaded.
        leases: requests that use it.
        waiters: requests that wait for it.
        pinned: whether it is never evicted.
        aliases: the ids that stand for it.
        tenant: whose it is; empty for nobody's.
    """

    id: str
    state: str
    size_bytes: int
    age_s: float
    idle_s: float | None
    load_s: float
    uses: int
    leases: int
    waiters: int
    pinned: bool
    aliases: list[str] = []
    tenant: str = ""


class LoaderState(msgspec.Struct, kw_only=True):
    """The models of one loader on one replica, against its limits; -1 for none.

    Attributes:
        name: of the loader.
        models_max, bytes_max, loads_max: its limits.
        size_bytes: what all its models take.
        total: how many there are of those that were asked for, `models` being perhaps a part of them.
        models: in order of their ids.
    """

    name: str
    models_max: int
    bytes_max: int
    loads_max: int
    size_bytes: int
    total: int
    models: list[ModelState]


class ReplicaState(msgspec.Struct, kw_only=True):
    """One replica and its models.

    Attributes:
        replica: its id.
        application, deployment: what it is one of.
        machine: where it is; empty on a single machine.
        max_ongoing, ongoing: requests that may run, and that do.
        retiring: whether it takes no more.
        loaders: of its deployment.
    """

    replica: str
    application: str
    deployment: str
    machine: str = ""
    max_ongoing: int
    ongoing: int
    retiring: bool
    loaders: list[LoaderState]
