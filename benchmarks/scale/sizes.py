"""How many bytes messages take on a link, with ids as long as they are in practice."""

from modelplex.wire import framing, messages
from modelplex.wire.messages import Message

MODEL = "customer-012345/ranking-v17"
REQUEST_ID = "k3Jx_0aPq2Z"
ADDRESS = "tcp://10.12.34.56:40123/machine-0123/run/modelplex-abcdefgh/AbCdEf.sock"
REPLICA = messages.ReplicaInfo("default_Ranker#AbCdEf", ADDRESS)
HEADERS = [
    (b"host", b"models.example.com"),
    (b"user-agent", b"python-httpx/0.28.1"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"content-type", b"application/json"),
    (b"content-length", b"512"),
    (b"serve_multiplexed_model_id", MODEL.encode()),
]
HEAD = messages.HTTPHead(
    "POST", "/predict", b"/predict", b"", "", "http", "1.1", HEADERS, ("10.12.0.7", 51234), ("10.12.0.1", 8000)
)

EXAMPLES: tuple[Message, ...] = (
    messages.Begin(123456, REQUEST_ID, "default", "/", "", MODEL, False, HEAD, 1.78e9, fits=True, share=0.01),
    messages.Answer(123456, 200, [(b"content-type", b"application/json")], "warm", 0.0, 0.0213, False, 3, 0.7, True),
    messages.Refuse(123456, 5),
    messages.ModelLoading(MODEL, 0, 0.71),
    messages.ModelLoaded(MODEL, 0, 1.234, 0.71),
    messages.ModelGone(MODEL, 0, 0.71),
    messages.Ongoing(4),
    messages.Load(3.21, dict.fromkeys((f"{MODEL}-{n}" for n in range(10)), 12), [(MODEL, 1.2)] * 3, 10),
    messages.Waiting("default", "Ranker", 12),
    messages.TableChange(
        replicas=[
            messages.ReplicasChange("default", "Ranker", [messages.ReplicaInfo("default_Ranker#AbCdEf", ADDRESS)], [])
        ]
    ),
    messages.Welcome(2, "default_Ranker#AbCdEf", 5, 3, 0, [f"{MODEL}-{n}" for n in range(10)], []),
)


def size_bytes(message: Message) -> int:
    """With its frame, without a body."""
    return len(framing.prefix(messages.encode(message), 0))


def sizes() -> dict[str, int]:
    """By the name of the kind."""
    return {type(message).__name__: size_bytes(message) for message in EXAMPLES}
