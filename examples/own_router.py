"""A request router of one's own: models whose ids begin alike are kept together, by customer for example.

python examples/own_router.py
"""

from collections.abc import Sequence
from zlib import crc32

from modelplex import serve
from modelplex.core.chooser import PendingRequest, ReplicaInfo


class ByPrefix:
    """Sends all models of a prefix to one replica, and waits for that one: "acme/en" follows "acme/de".

    All processes choose the same replica without talking (rendezvous hashing), and when one goes, only the prefixes
    that it had move. What the models of a customer share, such as a connection, is needed in one replica.

    Args:
        separator: ends the prefix.
        patience_s: a request that has waited for so long goes where it would go without this class.
    """

    def __init__(self, separator: str = "/", patience_s: float = 10.0) -> None:
        self.separator = separator
        self.patience_s = patience_s

    def choose(self, request: PendingRequest, replicas: Sequence[ReplicaInfo]) -> str | None:
        if not request.model_id or request.waited_s > self.patience_s:
            return request.default_choice()
        prefix = request.model_id.partition(self.separator)[0]
        return max((replica.replica_id for replica in replicas), key=lambda r: crc32(f"{prefix} {r}".encode()))


@serve.deployment(
    num_replicas=3,
    request_router_config={"request_router_class": ByPrefix, "request_router_kwargs": {"patience_s": 5.0}},
)
class Translator:
    @serve.multiplexed(max_num_models_per_replica=20)
    async def get_model(self, model_id: str) -> str:
        return model_id

    async def __call__(self) -> str:
        await self.get_model(serve.get_multiplexed_model_id())
        return serve.get_replica_context().replica_id


def main() -> None:
    serve.start(http_options={"port": 0})  # any port, since only handles call
    handle = serve.run(Translator.bind(), route_prefix=None)  # type: ignore[attr-defined] # of a class decorator
    customers = [f"customer{number}" for number in range(20)]
    homes = {
        customer: {
            handle.options(multiplexed_model_id=f"{customer}/{language}").remote().result()
            for language in ("de", "en", "fr", "ja")
        }
        for customer in customers
    }
    print("replicas for each customer:", *sorted({len(home) for home in homes.values()}))
    print("replicas in use:", len(set.union(*homes.values())))
    serve.shutdown()


if __name__ == "__main__":
    main()
