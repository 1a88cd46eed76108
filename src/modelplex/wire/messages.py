"""What processes say to each other.

On a link between a router (in a proxy or beside a handle) and a replica, `stream` is the router's number for a request.
On the control channel between the controller and a process that it started, there are no streams.
"""

import msgspec

from modelplex.core.tenant_lines import LineLimits
from modelplex.errors import ProtocolError
from modelplex.wire.grpc_body import GRPCHead
from modelplex.wire.http_head import HTTPHead as HTTPHead

# Raised with each change that an older release would misunderstand; two releases that differ refuse each other.
VERSION = 3


class _Message(msgspec.Struct, array_like=True):
    pass


# Router to replica


class Hello(_Message, tag=1):
    """The first message on a link."""

    version: int


class Begin(_Message, tag=2):
    """A request: of HTTP or gRPC if it has a head of that, else a call. Its bytes are the body, or pickled arguments.

    `arrived_at` is the Unix time at which it reached its router, which fills it in. If the model `fits`, it is
    expected to be there or to find room, else it is to be refused. `waited` says that it had to wait for its slot,
    `share` how popular a model is that is not loaded there (`core.dispatch.Send`).
    `max_cold_wait_s` is how long it waits for a load. If it `streams`, it is a call of a generator, and its answer has
    what that yields (`framing.part`). `timeout_s` is what is left of its time; the router fills it in, and cancels the
    request when it is over. If it is `slotless`, it is run whatever else runs. `tenant` is on whose behalf it is, if
    that is known. `trace` is the span that it is below (`tracing.Tracing`), if it is traced.
    """

    stream: int
    request_id: str
    app_name: str
    route: str
    method_name: str
    model_id: str
    more: bool
    http: HTTPHead | None = None
    arrived_at: float = 0.0
    fits: bool = False
    waited: bool = False
    share: float = 0.0
    max_cold_wait_s: float | None = None
    streams: bool = False
    timeout_s: float | None = None
    slotless: bool = False
    tenant: str = ""
    trace: str = ""
    grpc: GRPCHead | None = None


class Cancel(_Message, tag=3):
    """The caller has gone away."""

    stream: int


class Prefetch(_Message, tag=15):
    """Load this model, if it is not loaded: a request for it has waited for long enough, or some are soon to come.

    In the second case it has a `worth_s`: nothing is to be evicted for it that costs as much
    (`core.cache.ModelCache.harm_s`), and if it will not be loaded, for whatever reason, `ModelGone` is said of it.
    `share` is how popular it is (`core.dispatch.Prefetch`).
    """

    model_id: str
    worth_s: float | None = None
    share: float = 0.0
    tenant: str = ""


class Relay(_Message, tag=38):
    """The first message on a link over TCP that is to go on to another address: pass on whatever follows, both ways."""

    address: str


# Both ways


class Chunk(_Message, tag=4):
    """More of the body of a request or of an answer; the last one says that there is no more."""

    stream: int
    more: bool


class Credit(_Message, tag=5):
    """The receiver of a body has consumed so many bytes of it: its sender may send as many more."""

    stream: int
    size_bytes: int


# Replica to router


class Welcome(_Message, tag=6):
    """The answer to `Hello`: what the replica is, and what it holds.

    `room` is how many models it could load without evicting one, None for any number; `harm_s` what its next eviction
    would cost (`core.cache.ModelCache.harm_s`). `on_disk` are models whose files it knows to be on its machine's disk,
    the last that it has used.
    """

    version: int
    replica_id: str
    max_ongoing: int
    ongoing: int
    room: int | None
    loaded: list[str]
    loading: list[str]
    loads_max: int = -1
    harm_s: float = 0.0
    on_disk: list[str] = []


class ModelLoading(_Message, tag=7):
    """Said before the loader starts."""

    model_id: str
    room: int | None
    harm_s: float = 0.0


class ModelLoaded(_Message, tag=8):
    """`fetch_s` is the part of `load_s` in which its file was fetched: 0 if that was on the machine's disk already.

    It is None if the loader used no `ModelStore` whose files are kept on the disk.
    """

    model_id: str
    room: int | None
    load_s: float
    harm_s: float = 0.0
    fetch_s: float | None = None


class ModelGone(_Message, tag=9):
    """The model is no longer held: it is being unloaded, or its load has failed."""

    model_id: str
    room: int | None
    harm_s: float = 0.0


class Ongoing(_Message, tag=10):
    """How many requests run; said to routers that believe that the replica is full, when it is not."""

    ongoing: int


class Refuse(_Message, tag=11):
    """The request has not been begun: there is no slot for it, or no room for its model that was expected to fit.

    Whether the replica `holds` the model, loads it, or has begun a request that will.
    """

    stream: int
    ongoing: int
    no_room: bool = False
    holds: bool = False


class Retiring(_Message, tag=12):
    """The replica takes no new requests and ends when those that run have ended."""


class Answer(_Message, tag=13):
    """The head of an answer, with the first bytes of its body. The answer of a call is its pickled value.

    `holds` says that the request's model is loaded, `harm_s` what the next eviction would cost.
    """

    stream: int
    status: int
    headers: list[tuple[bytes, bytes]]
    start: str
    load_s: float
    run_s: float
    more: bool
    ongoing: int
    harm_s: float = 0.0
    holds: bool = False


class Fail(_Message, tag=14):
    """The request has failed. The bytes are the pickled exception of the user's code, or nothing."""

    stream: int
    error: str
    message: str
    retry_after_s: float | None
    ongoing: int


# Watcher to replica, and back


class Watch(_Message, tag=30):
    """The first message of a link that sends no requests: tell me of each request that ends."""

    version: int


class Watching(_Message, tag=31):
    """The answer to `Watch`: who the replica is."""

    version: int
    app_name: str
    deployment: str
    replica_id: str


class Record(_Message):
    """One request that has ended.

    `start` and `model_id` are as in the request's context, `size_bytes` is None where nobody knows it. `load_s` is how
    long it waited for models; if it was the one that had its model loaded, how long that load took.
    """

    arrived_at: float
    model_id: str
    start: str
    queue_s: float
    load_s: float
    service_s: float
    size_bytes: int | None
    ok: bool


class Records(_Message, tag=32):
    """Requests that have ended, and how many more there were that were not kept. No more come before `Taken`."""

    records: list[Record]
    lost: int


class Taken(_Message, tag=33):
    """The watcher has taken the last `Records`."""


class Unwatch(_Message, tag=34):
    """Tell me the rest, and close the link."""


# Controller to process


class Setup(_Message, tag=20):
    """The first message to a process that was started. The bytes that follow as chunks are pickled code.

    `register_at` is where the next controller will be when this one has died; empty for a process that ends with it.
    """

    sys_path: list[str]
    log_dir: str
    console: bool
    register_at: str = ""


class ReplicaInfo(_Message):
    replica_id: str
    address: str


class OwnRouter(_Message):
    """A user's class that chooses replicas: its pickle with its arguments, and where to import from for it.

    Two with the same `version` are the same.
    """

    version: str
    data: bytes
    sys_path: list[str]


class DeploymentInfo(_Message):
    """One deployment: its replicas, and what callers have to know of its options (`config.DeploymentConfig`)."""

    app_name: str
    name: str
    max_queued_requests: int
    replicas: list[ReplicaInfo]
    retry_lost_requests: bool = True
    backpressure_status: int = 503
    backpressure_retry_after_s: float = 1.0
    own_router: OwnRouter | None = None
    no_replica_wait_s: float = 30.0
    tenants: dict[str, LineLimits] | None = None


class AppInfo(_Message):
    """One application. Its ingress speaks these `protocols` of other systems (`runtime.spoken`)."""

    name: str
    route_prefix: str | None
    ingress: str
    protocols: list[str] = []


class Table(_Message, tag=21):
    """Everything that can be called, and where; each one replaces the one before."""

    apps: list[AppInfo]
    deployments: list[DeploymentInfo]


class ReplicasChange(_Message):
    """Which replicas of a deployment have come, or have another address, and which have gone."""

    app_name: str
    deployment: str
    come: list[ReplicaInfo]
    gone: list[str]


class TableChange(_Message, tag=39):
    """What is other than in the table before (`wire.table_change`).

    The `apps` if any is, `deployments` that are new or have other options, in whole, which are `removed`, by their
    applications and names, and for all others, which `replicas` are.
    """

    apps: list[AppInfo] | None = None
    deployments: list[DeploymentInfo] = []
    removed: list[tuple[str, str]] = []
    replicas: list[ReplicasChange] = []


class Stop(_Message, tag=22):
    """End what runs, within so many seconds, and exit."""

    timeout_s: float


class Reconfigure(_Message, tag=26):
    """Give this to the object's `reconfigure`: what JSON says. It is answered by `Done`."""

    number: int
    user_config: bytes


class CheckHealth(_Message, tag=27):
    """Call the object's `check_health`. It is answered by `Done`."""

    number: int


class Ask(_Message, tag=40):
    """Say what you know about a topic; `argument` is JSON (`runtime.inspection`). It is answered by `Done`."""

    number: int
    topic: str
    argument: bytes


# Process to controller


class Ready(_Message, tag=23):
    """The process can be sent requests at this address. Whether it wants `CheckHealth`."""

    address: str
    checks_health: bool = False


class Leaving(_Message, tag=37):
    """The process has been asked to end, from outside: another one is to take its place first."""


class Done(_Message, tag=28):
    """The answer to a request of the controller's: what went wrong, or nothing. What was asked for, as JSON."""

    number: int
    error: str
    answer: bytes = b""


class StartFailed(_Message, tag=24):
    """The process could not start; it exits."""

    message: str


class Leaks(_Message, tag=25):
    """What a replica's unloaded models still take, in bytes: in all, and the worst of them. Said when it changes."""

    leaked_bytes: int
    models: list[tuple[str, int]]


class Load(_Message, tag=29):
    """What a replica has done since it last said so; said about once a second, while there is something to say.

    `ongoing` is the mean number of requests that ran, `uses` how many named each model that it holds (0 for one that
    none has), `loads` the models that it loaded with the seconds that each took, `models_max` how many it may hold, -1
    for any number. If it has several loaders, `loaders` says which of them holds what. `aliases` are other names by
    which requests ask for these, by loader, or by an empty name if there is only one.
    """

    ongoing: float
    uses: dict[str, int]
    loads: list[tuple[str, float]]
    models_max: int
    loaders: dict[str, list[str]] = {}
    aliases: dict[str, list[str]] = {}


class Waiting(_Message, tag=35):
    """How many requests to a deployment wait in this process; said when that changes, at most twice a second or so."""

    app_name: str
    deployment: str
    count: int


class Register(_Message, tag=36):
    """The first message to a controller by a process that it did not start, or does not know to have started.

    A `replica` or a `proxy` that an earlier controller started says what it is, and which share of which GPUs it has; a
    `caller` only wants the table. A proxy says on which `machine` it is, if there are several.
    """

    kind: str
    name: str
    address: str = ""
    app_name: str = ""
    deployment: str = ""
    version: str = ""
    checks_health: bool = False
    gpus: dict[str, float] = {}
    pid: int = 0
    machine: str = ""


Message = (
    Hello
    | Begin
    | Cancel
    | Prefetch
    | Relay
    | Chunk
    | Credit
    | Welcome
    | ModelLoading
    | ModelLoaded
    | ModelGone
    | Ongoing
    | Refuse
    | Retiring
    | Answer
    | Fail
    | Watch
    | Watching
    | Records
    | Taken
    | Unwatch
    | Setup
    | Table
    | TableChange
    | Stop
    | Ready
    | StartFailed
    | Leaks
    | Reconfigure
    | CheckHealth
    | Ask
    | Done
    | Load
    | Waiting
    | Register
    | Leaving
)

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def decode(head: bytes) -> Message:
    """The message of a frame's head. Raises `ProtocolError` if it is none."""
    try:
        message: Message = _decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a frame is no message of version {VERSION}: {error}") from error
    return message
