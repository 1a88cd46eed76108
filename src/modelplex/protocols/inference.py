"""What every client of the Open Inference Protocol (V2) can ask of a deployment, whatever carries it: HTTP or gRPC.

It is for deployments whose class has a method `infer(self, model, inputs)` and one `@serve.multiplexed` method
(`runtime.spoken`). A request comes to the replica that its model leads to: what is asked of a model is asked here.
"""

import asyncio
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelplex import __version__, context, errors
from modelplex.multiplex import loaders_of
from modelplex.protocols.listing import known_models
from modelplex.protocols.tensors import DTYPES, Array, datatype_of
from modelplex.runtime import steering
from modelplex.runtime.model_hosts import ModelHosts
from modelplex.runtime.models import ModelHost
from modelplex.runtime.servable import Servable

SERVER_NAME = "modelplex"
EXTENSIONS = ("binary_tensor_data", "model_repository")

# The platform of a model whose deployment says nothing about it.
PLATFORM = "modelplex"

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A model in the repository index. `state` is `READY`, `LOADING`, or `UNAVAILABLE` for a `reason`."""

    model_id: str
    state: str
    reason: str = ""

    @property
    def name(self) -> str:
        return split(self.model_id)[0]

    @property
    def version(self) -> str:
        return split(self.model_id)[1]


def split(model_id: str) -> tuple[str, str]:
    """Name and version of a model id, `{name}@{version}`; the version is empty if there is none."""
    name, _, version = model_id.rpartition("@")
    return (name, version) if name else (model_id, "")


def server_metadata() -> dict[str, Any]:
    return {"name": SERVER_NAME, "version": __version__, "extensions": list(EXTENSIONS)}


class Inference:
    """Asks one replica's object. Its methods run as part of a request (`context.request`), which leases the models.

    Args:
        servable: the object, which speaks V2.
        models: the replica's.
        replica: whose replica it is.
    """

    def __init__(self, servable: Servable, models: ModelHosts, replica: context.ReplicaContext) -> None:
        self._servable = servable
        self._models = models
        self._replica = replica
        self._loop = asyncio.get_running_loop()
        self._loader = next(loader for loader in loaders_of(servable.instance) if loader.is_method)
        self._takes_parameters = "parameters" in inspect.signature(servable.instance.infer).parameters

    @property
    def _host(self) -> ModelHost:
        return self._models.get(self._loader, self._servable.instance)

    async def infer(
        self,
        model_id: str,
        inputs: Mapping[str, Array],
        *,
        parameters: Mapping[str, Any] | None = None,
        outputs: Collection[str] = (),
    ) -> dict[str, Array]:
        """What the user's `infer` returns for a model, as arrays that have a datatype.

        Args:
            model_id: checked.
            inputs: arrays by name.
            parameters: of the request; for an `infer` that takes `parameters`.
            outputs: the names that are asked for; all unless there are any. Their order is kept.

        If the deployment's `metadata` is a dict with inputs, these are checked against it before the model is loaded.
        Raises `InvalidTensorError` for an input that is not as it says, or that `infer` looks for in vain; what loading
        the model and the user's code raise; TypeError if that returned something else than arrays by name; and
        `InvalidRequestError` for an output that there is none of.
        """
        given = Inputs(inputs)
        if isinstance(declared := getattr(self._servable.instance, "metadata", None), Mapping):
            _check_inputs(given, _metadata(declared, [])["inputs"])
        model = await self._host.get(model_id, context.request())
        more = {"parameters": dict(parameters or {})} if self._takes_parameters else {}
        answer = await self._servable.call("infer", model, given, **more)
        if not isinstance(answer, Mapping):
            raise TypeError(f"infer() returns arrays by name, a dict; it returned {type(answer).__name__}.")
        if missing := [name for name in outputs if name not in answer]:
            there = ", ".join(map(str, answer)) or "none"
            raise errors.InvalidRequestError(f"There is no output {missing[0][:64]!r}; there are: {there}.")
        found = {str(name): np.asarray(answer[name]) for name in (outputs or answer)}
        for array in found.values():
            datatype_of(array)  # or a TypeError
        return found

    async def metadata(self, model_id: str) -> dict[str, Any]:
        """Name, versions, platform, inputs and outputs of a model, as V2 has them.

        What is to be known of inputs and outputs is the deployment's attribute `metadata`: a dict, if all models have
        the same, or a method that takes a model id and returns one, plain or async. It may say `platform`, `versions`,
        and `inputs` and `outputs`: lists of dicts with `name`, `datatype` and `shape` (-1 for any length).
        Raises `ModelNotFoundError` for a model that does not exist, and TypeError if it says something else.
        """
        await self._check_exists(model_id)
        said: Any = getattr(self._servable.instance, "metadata", None)
        if callable(said):
            said = await self._servable.call("metadata", model_id)
        name, version = split(model_id)
        return {"name": name, **_metadata(said, [version] if version else [])}

    async def ready(self, model_id: str) -> bool:
        """Whether the model is loaded here, or is known to exist (`model_exists`) and has not just failed to load."""
        host = self._host
        if host.view.holds(model_id):
            return True
        if self._loader.options.model_exists is None or host.cache.refuses(model_id, self._loop.time(), _tenant()):
            return False
        return await host.cached.exists(model_id)

    async def index(self, *, ready: bool = False) -> list[IndexEntry]:
        """The models that replicas hold, and those that the deployment's method `list_models` names, by name.

        Args:
            ready: leave out those that are not loaded.
        """
        found = await known_models(self._servable, self._replica, self._loader.name, listed=not ready)
        entries = [_entry(model_id, is_loaded) for model_id, is_loaded in sorted(found.items())]
        return [entry for entry in entries if not ready or entry.state == READY]

    async def load(self, model_id: str) -> None:
        """Load the model here, where its request was sent. Raises what a request for it would."""
        await self._host.get(model_id, context.request())

    async def unload(self, model_id: str) -> int:
        """Have every replica unload the model as soon as nobody uses it. Answers how many held it."""
        where = self._replica
        return await steering.unload(context.caller(), where.app_name, where.deployment, model_id, self._loader.name)

    async def _check_exists(self, model_id: str) -> None:
        host = self._host
        if not host.view.holds(model_id) and not await host.cached.exists(model_id):
            raise errors.ModelNotFoundError(f"There is no model '{model_id}'.")


class Inputs(dict[str, Array]):
    """The arrays that a client sent, by name."""

    def __missing__(self, name: str) -> Array:
        raise errors.InvalidTensorError(f"There is no input {name!r}; there are: {', '.join(self) or 'none'}.")


def _check_inputs(given: Mapping[str, Array], declared: list[dict[str, Any]]) -> None:
    """Raise `InvalidTensorError` for what is not as the metadata says; without inputs it says nothing."""
    if declared and (unknown := sorted(set(given) - {tensor["name"] for tensor in declared})):
        names = ", ".join(tensor["name"] for tensor in declared)
        raise errors.InvalidTensorError(f"There is no input {unknown[0][:64]!r}; there are: {names}.")
    for tensor in declared:
        name, shape, array = tensor["name"], tensor["shape"], given.get(tensor["name"])
        if array is None:
            raise errors.InvalidTensorError(f"Input {name!r} is missing.")
        if DTYPES.get(tensor["datatype"]) != array.dtype:
            raise errors.InvalidTensorError(f"Input {name!r} is of {tensor['datatype']}, got {datatype_of(array)}.")
        fits = len(shape) == array.ndim and all(w in (-1, g) for w, g in zip(shape, array.shape, strict=True))
        if not fits:
            raise errors.InvalidTensorError(f"Input {name!r} has shape {shape}, got {list(array.shape)}.")


def _entry(model_id: str, is_loaded: bool | None) -> IndexEntry:
    if is_loaded is None:
        return IndexEntry(model_id, UNAVAILABLE, "not loaded")
    return IndexEntry(model_id, READY if is_loaded else LOADING)


def _metadata(said: Any, versions: list[str]) -> dict[str, Any]:
    if not isinstance(said, Mapping | None):
        raise TypeError(f"metadata is a dict, or a method that returns one; got {type(said).__name__}.")
    said = said or {}
    try:
        return {
            "versions": [str(version) for version in said.get("versions", versions)],
            "platform": str(said.get("platform", PLATFORM)),
            "inputs": [_tensor(tensor) for tensor in said.get("inputs", ())],
            "outputs": [_tensor(tensor) for tensor in said.get("outputs", ())],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise TypeError(f"metadata has lists of dicts with name, datatype and shape; got {said!r}.") from error


def _tensor(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": str(said["name"]),
        "datatype": str(said["datatype"]),
        "shape": [int(length) for length in said["shape"]],
    }


def _tenant() -> str:
    """On whose behalf it is asked."""
    request = context.request()
    return "" if request is None else request.tenant
