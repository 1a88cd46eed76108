"""A system that is made up, second by second, in the form in which the admin interface tells of one."""

import itertools
import math
import random
import string
import threading
from dataclasses import dataclass, field
from typing import Any

GIB = 2**30
BEGAN = 1_790_000_000.0
DECISIONS_MAX = 200
EVENT_DECISIONS = 50
LANGUAGES = ("de", "fr", "ja", "nl", "pl", "pt", "sv", "tr", "uk", "zh")
TENANTS = ("", "acme", "globex", "initech")


@dataclass
class Model:
    id: str
    size_bytes: int
    load_s: float
    state: str = "resident"
    loaded_at: float = BEGAN
    used_at: float = BEGAN
    uses: int = 0
    leases: int = 0
    waiters: int = 0
    pinned: bool = False
    aliases: tuple[str, ...] = ()
    tenant: str = ""

    def as_topic(self, now: float) -> dict[str, Any]:
        return {
            "id": self.id,
            "state": self.state,
            "size_bytes": self.size_bytes,
            "age_s": now - self.loaded_at,
            "idle_s": None if self.leases or self.state != "resident" else now - self.used_at,
            "load_s": self.load_s,
            "uses": self.uses,
            "leases": self.leases,
            "waiters": self.waiters,
            "pinned": self.pinned,
            "aliases": list(self.aliases),
            "tenant": self.tenant,
        }


@dataclass
class Replica:
    id: str
    deployment: str
    machine: str
    models_max: int
    bytes_max: int
    models: dict[str, Model] = field(default_factory=dict)
    max_ongoing: int = 8
    ongoing: int = 0
    retiring: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(model.size_bytes for model in self.models.values() if model.state != "waiting")

    def as_topic(self, now: float) -> dict[str, Any]:
        return {
            "replica": self.id,
            "application": "shops",
            "deployment": self.deployment,
            "machine": self.machine,
            "max_ongoing": self.max_ongoing,
            "ongoing": self.ongoing,
            "retiring": self.retiring,
            "loaders": [
                {
                    "name": "get_model",
                    "models_max": self.models_max,
                    "bytes_max": self.bytes_max,
                    "loads_max": 2,
                    "size_bytes": self.size_bytes,
                    "total": len(self.models),
                    "models": [model.as_topic(now) for model in self.models.values()],
                }
            ],
        }


class Scene:
    """Replicas full of models, with requests, loads and evictions each second.

    Args:
        replicas: how many.
        models: for how many each has room, three quarters of which are taken at first.
        seed: of what happens.
        requests: each second, in all.
        loads: that each replica begins in a second.
    """

    def __init__(self, replicas: int, models: int, *, seed: int = 1, requests: int = 400, loads: float = 0.06) -> None:
        self._rng = random.Random(seed)
        self._requests = requests
        self._loads = loads
        self._numbers = itertools.count(1)
        self.lock = threading.RLock()
        self.now = BEGAN
        self.traffic = dict.fromkeys(("warm", "cold", "joined", "none", "errors", "queued"), 0)
        self.decisions: list[dict[str, Any]] = []
        self.slowest_loads: list[dict[str, Any]] = []
        self.replicas = [self._replica(n, models) for n in range(replicas)]

    def _replica(self, number: int, models: int) -> Replica:
        rng = self._rng
        name = "shops_Ranker#" + "".join(rng.choices(string.ascii_letters + string.digits, k=6))
        replica = Replica(
            name, "Ranker", f"node-{number % 7 + 1}" if number % 5 else "", models, models * GIB * 6 // 10
        )
        for _ in range(models * 3 // 4 + rng.randrange(models // 4)):
            model = self._model()
            model.loaded_at -= rng.expovariate(1 / 4000)
            model.used_at -= min(rng.expovariate(1 / 300), BEGAN - model.loaded_at)
            model.uses = int(rng.lognormvariate(4.5, 2.2))
            replica.models[model.id] = model
        for model in list(replica.models.values())[: 1 + models // 20]:
            model.pinned = rng.random() < 0.6
            model.aliases = (f"{model.id.rsplit('-', 1)[0]}@stable",) if model.pinned else ()
        return replica

    def _model(self) -> Model:
        rng, number = self._rng, next(self._numbers)
        size = int(GIB * rng.triangular(0.12, 0.9, 0.3))
        name = f"shop-{number:03d}-{rng.choice(LANGUAGES)}"
        return Model(name, size, round(rng.triangular(0.4, 9.0, 1.2), 3), tenant=rng.choice(TENANTS))

    def step(self) -> None:
        """Another second."""
        with self.lock:
            self.now += 1.0
            for replica in self.replicas:
                self._serve(replica)
            since = self.now - BEGAN
            wave = 1.0 + 0.22 * math.sin(since / 70) + 0.08 * math.sin(since / 11) + self._rng.uniform(-0.04, 0.04)
            requests = int(self._requests * wave)
            colder = 6 if since % 260 in range(120, 150) else 1  # a campaign for shops that nobody asked for so far
            cold = self._rng.randrange(0, 2 + colder * requests // 90)
            joined, none = self._rng.randrange(0, 1 + cold), requests // 14
            for kind, n in {
                "warm": requests - cold - joined - none,
                "cold": cold,
                "joined": joined,
                "none": none,
            }.items():
                self.traffic[kind] += n
            self.traffic["queued"] = self._rng.randrange(0, 3 + cold)

    def _serve(self, replica: Replica) -> None:
        rng = self._rng
        models = list(replica.models.values())
        for model in models:
            model.leases = 0
        replica.ongoing = 0 if replica.retiring else min(replica.max_ongoing, int(rng.triangular(0, 9, 3)))
        resident = [model for model in models if model.state == "resident"]
        weights = [model.uses + 1 for model in resident]
        for model in rng.choices(resident, weights, k=3 * replica.ongoing) if resident else ():
            model.leases += rng.random() < 0.33
            model.uses += rng.randrange(1, 9)
            model.used_at = self.now
        self._turn_over(replica, models)

    def _turn_over(self, replica: Replica, models: list[Model]) -> None:
        rng = self._rng
        for model in models:
            if model.state == "unloading":
                del replica.models[model.id]
            elif model.state == "settling":
                model.state, model.loaded_at, model.used_at = "resident", self.now, self.now
                self._tell(
                    "loaded",
                    replica,
                    model,
                    "loaded",
                    f"Loaded {model.id} in {model.load_s} s.",
                    {"load_s": model.load_s},
                )
                load = {"model_id": model.id, "replica": replica.id, "load_s": model.load_s, "at": self.now}
                self.slowest_loads = sorted([*self.slowest_loads, load], key=lambda told: -float(told["load_s"]))[:10]
            elif model.state == "loading" and rng.random() < 0.4:
                model.state = "settling"
            elif model.state == "waiting" and rng.random() < 0.6:
                model.state = "loading"
        if rng.random() < self._loads and not replica.retiring:
            self._load(replica)

    def _load(self, replica: Replica) -> None:
        model = self._model()
        model.state, model.waiters = self._rng.choice(["loading", "loading", "waiting"]), self._rng.randrange(1, 5)
        model.loaded_at = model.used_at = self.now
        idle = [m for m in replica.models.values() if m.state == "resident" and not m.leases and not m.pinned]
        while idle and (
            len(replica.models) >= replica.models_max or replica.size_bytes + model.size_bytes > replica.bytes_max
        ):
            victim = min(idle, key=lambda other: other.used_at)
            if victim.state == "unloading" or len(replica.models) >= replica.models_max:
                replica.models.pop(victim.id, None)
            victim.state = "unloading"
            idle.remove(victim)
            idle_s, others = round(self.now - victim.used_at), len(idle) + 1
            text = f"Evicted {victim.id}, idle for {idle_s} s, for {model.id}: the longest idle of {others}."
            self._tell("evict", replica, victim, "longest_idle", text, {"idle_s": idle_s})
        replica.models[model.id] = model
        where = replica.id.rsplit("#", 1)[-1]
        text = f"Sent to {where}, where a load costs least: {model.load_s} s expected, 0.31 s more on the next best."
        self._tell("route", replica, model, "cheapest_load", text, {"expected_s": model.load_s})

    def _tell(self, kind: str, replica: Replica, model: Model, why: str, text: str, numbers: dict[str, float]) -> None:
        told = {"at": self.now, "process": replica.id, "kind": kind, "request_id": f"{self._rng.getrandbits(48):012x}"}
        told |= {"model_id": model.id, "replica": replica.id, "why": why, "numbers": numbers, "text": text}
        self.decisions = [told, *self.decisions[: DECISIONS_MAX - 1]]

    def status(self) -> dict[str, Any]:
        deployment = {
            "status": "HEALTHY",
            "replica_states": {"RUNNING": len(self.replicas)},
            "message": "",
            "leaks": {},
        }
        app = {"status": "RUNNING", "message": "", "last_deployed_time_s": BEGAN, "deployments": {"Ranker": deployment}}
        other = {"status": "DEPLOYING", "message": "", "last_deployed_time_s": BEGAN, "deployments": {}}
        return {
            "proxies": {"proxy-0": "HEALTHY"},
            "applications": {"shops": app, "captions": other},
            "address": "http://127.0.0.1:8000",
            "log_dir": "",
            "proxy_addresses": {},
            "proxy_failures": {},
        }

    def state(self) -> dict[str, Any]:
        """What one event tells."""
        with self.lock:
            return {
                "time": self.now,
                "status": self.status(),
                "replicas": [replica.as_topic(self.now) for replica in self.replicas],
                "traffic": dict(self.traffic),
                "slowest_loads": self.slowest_loads,
                "decisions": self.decisions[:EVENT_DECISIONS],
            }

    def told(self, **wanted: str) -> list[dict[str, Any]]:
        """The decisions about a model or a request."""
        with self.lock:
            return [told for told in self.decisions if all(told[name] == value for name, value in wanted.items())]

    def model(self, model_id: str) -> Model | None:
        return next((r.models[model_id] for r in self.replicas if model_id in r.models), None)

    def steer(self, model_id: str, verb: str) -> bool:
        """What a button asks for. Answers whether there was such a model."""
        with self.lock:
            model = self.model(model_id)
            if verb in {"load", "prefetch"} and model is None:
                self.replicas[0].models[model_id] = Model(model_id, GIB, 1.0, loaded_at=self.now, used_at=self.now)
                return True
            if model is None:
                return False
            if verb == "unload":
                model.state = "unloading"
            elif verb in {"pin", "unpin"}:
                model.pinned = verb == "pin"
            return True
