"""A node of a cluster is lost while requests run: which fail, and when its models answer again."""

import collections
import http.client
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.dataplane.processes import BenchmarkError

from .measurements import CLIENTS, Figures, Sizes
from .systems import Cluster, Deployed, System

NODES = 4
MODELS = 8
MODELS_EACH = 4
LOAD_S = 0.3
WARM_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 60.0
PAUSE_S = 0.05  # after a failed request: a client would else make hundreds of them


@dataclass(frozen=True)
class Answer:
    """To one request, or the lack of one.

    Attributes:
        sent_at, at: in seconds of one clock.
        model: that was asked for.
        node: that has answered; empty if the request has failed.
    """

    sent_at: float
    at: float
    model: str
    node: str


def figures(answers: Sequence[Answer], lost: str, lost_at: float) -> Figures:
    """Of requests that were sent before and after the loss of a node, in the order of the answers.

    Raises BenchmarkError if it held no model, or one of its models does not come back.
    """
    last = {answer.model: answer.node for answer in answers if answer.at <= lost_at and answer.node}
    held = {model for model, node in last.items() if node == lost}
    back: dict[str, float] = {}
    for answer in answers:
        if answer.model in held and answer.at > lost_at and answer.node not in ("", lost):
            back.setdefault(answer.model, answer.at - lost_at)
    if not held or held - back.keys():
        raise BenchmarkError(f"of the models {sorted(held)} of the node that is lost, {sorted(back)} came back")
    after = [answer for answer in answers if answer.at > lost_at]
    return {
        "models of the node": len(held),
        "failed requests": sum(not answer.node for answer in after),
        "the first of its models answers again after, s": min(back.values()),
        "all of them after, s": max(back.values()),
        "longest wait for an answer, s": max(answer.at - answer.sent_at for answer in after),
    }


def lose(cluster: Cluster, system: System, sizes: Sizes, seed: int, folder: Path) -> Figures:
    """Kill the node with most of the models, the head apart, while clients ask for them through the head's proxy."""
    cluster.have(NODES)
    deployed = Deployed(NODES, MODELS_EACH, LOAD_S, spread=True)
    answers: list[Answer] = []
    over = threading.Event()
    with system.serve(cluster, deployed, folder) as served:
        clients = [
            threading.Thread(target=_ask, args=(served.ports[0], CLIENTS * seed + number, answers, over))
            for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        try:
            _wait_until_warm(answers)
            last = {answer.model: answer.node for answer in list(answers) if answer.node}
            held = collections.Counter(last.values())
            lost = max(cluster.nodes[1:], key=lambda node: held[node])
            lost_at = time.monotonic()
            cluster.lose(lost)
            time.sleep(max(0.0, sizes.after_s - (time.monotonic() - lost_at)))
        finally:
            over.set()
            for client in clients:
                client.join()
    return figures(sorted(answers, key=lambda answer: answer.at), lost, lost_at)


def _ask(port: int, seed: int, answers: list[Answer], over: threading.Event) -> None:
    """Ask for popular models more than for others, the next as soon as one is answered."""
    chance = random.Random(seed)
    models = [f"m{number}" for number in range(MODELS)]
    weights = [1 / (place + 1) for place in range(MODELS)]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_TIMEOUT_S)
    while not over.is_set():
        (model,) = chance.choices(models, weights)
        sent_at, node = time.monotonic(), ""
        try:
            connection.request("GET", "/where", headers={"serve_multiplexed_model_id": model})
            response = connection.getresponse()
            body = response.read().decode()
            if response.status == 200:
                _, node = body.split()
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it again
        answers.append(Answer(sent_at, time.monotonic(), model, node))
        if not node:
            over.wait(PAUSE_S)
    connection.close()


def _wait_until_warm(answers: list[Answer]) -> None:
    until = time.monotonic() + WARM_TIMEOUT_S
    while True:
        counts = collections.Counter(answer.model for answer in list(answers) if answer.node)
        if len(counts) == MODELS and min(counts.values()) > 20:
            break
        if time.monotonic() > until:
            raise BenchmarkError(f"after {WARM_TIMEOUT_S:g} s, answers by model: {dict(counts)}")
        time.sleep(0.1)
    time.sleep(1.0)  # copies that are about to be made are
