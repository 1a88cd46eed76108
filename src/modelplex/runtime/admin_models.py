"""What the admin interface answers about models and replicas, and what it has them do."""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec

from modelplex import errors
from modelplex.config import MODEL_ID
from modelplex.context import Caller
from modelplex.runtime import steering
from modelplex.runtime.address import Address
from modelplex.runtime.admin_system import Administered, Nothing
from modelplex.runtime.admin_table import Answer, RefusedError, Request
from modelplex.runtime.model_states import ModelsAsked, ModelState, ReplicaState

MODELS_MAX = 1000

Name = Annotated[str, msgspec.Meta(max_length=256)]


class ModelOnReplica(ModelState, kw_only=True):
    """A model as it is on one replica.

    Attributes:
        replica: its id.
    """

    replica: str


class ModelEntry(msgspec.Struct, kw_only=True):
    """A model of one loader of a deployment.

    Attributes:
        id: the model itself, not one of its aliases.
        application, deployment, loader: where it belongs.
        pinned: whether it is never evicted, on any of its replicas.
        aliases: the ids that stand for it.
        replicas: where it is, and how it is there.
    """

    id: str
    application: str
    deployment: str
    loader: str
    pinned: bool
    aliases: list[str]
    replicas: list[ModelOnReplica]


class Models(msgspec.Struct, kw_only=True):
    """A page of models, in the order of their ids.

    Attributes:
        models: those of the page.
        total: how many times models are on replicas, of those that were asked for, from this page on.
        next: the `after` of the next page; null if this is the last one.
    """

    models: list[ModelEntry]
    total: int
    next: str | None


class ModelsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which models are asked for.

    Attributes:
        application, deployment: only of these.
        model: only this one, or those that match: `*` stands for any text.
        after: only those whose ids come after this one.
        limit: so many ids at most.
    """

    application: Name = ""
    deployment: Name = ""
    model: Name = ""
    after: Name = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MODELS_MAX)] = 100


class ReplicasQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which replicas are asked for.

    Attributes:
        application, deployment: only of these.
        limit: models that are told of each loader at most, those with the first ids.
    """

    application: Name = ""
    deployment: Name = ""
    limit: Annotated[int, msgspec.Meta(ge=0, le=MODELS_MAX)] = MODELS_MAX


class Replicas(msgspec.Struct):
    """Attributes: replicas: those that answer, in the order of their ids."""

    replicas: list[ReplicaState]


class Target(msgspec.Struct, forbid_unknown_fields=True):
    """Whose model it is.

    Attributes:
        application: may be left out if there is only one.
        deployment: may be left out if only one of the application has models.
        loader: of the deployment; may be left out if it has only one.
    """

    application: Name = ""
    deployment: Name = ""
    loader: Name = ""


class NewAlias(Target, forbid_unknown_fields=True, kw_only=True):
    """What an alias is to stand for.

    Attributes:
        version: the id of that version.
    """

    version: Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=f"^{MODEL_ID.pattern}$")]


class Held(msgspec.Struct):
    """Attributes: replicas: on how many it was held, is pinned, or was."""

    replicas: int


class Draining(msgspec.Struct):
    """Attributes: replica: which one takes no more requests, as soon as there is another in its place."""

    replica: str


async def replicas(it: Administered, request: Request) -> Replicas:
    asked: ReplicasQuery = request.options
    return Replicas(await replicas_of(it, ModelsAsked(**msgspec.structs.asdict(asked))))


async def replicas_of(it: Administered, asked: ModelsAsked) -> list[ReplicaState]:
    """Those that answer, by their ids."""
    answers = await it.survey.ask("models", msgspec.to_builtins(asked))
    found = [msgspec.convert(answer, ReplicaState) for _, answer in sorted(answers.items()) if answer is not None]
    running = [each.processes.running for each in it.controller.deployments]
    machines = {name: Address.parse(address).machine for each in running for name, address in each.items()}
    for replica in found:
        replica.machine = machines.get(replica.replica, "")
    return found


async def models(it: Administered, request: Request) -> Models:
    asked: ModelsQuery = request.options
    wanted = ModelsAsked(**msgspec.structs.asdict(asked) | {"limit": asked.limit + 1})  # to see if there are more
    found, total = await replicas_of(it, wanted), 0
    entries: dict[tuple[str, str, str, str], list[ModelOnReplica]] = defaultdict(list)
    for replica in found:
        for loader in replica.loaders:
            total += loader.total
            for model in loader.models:
                key = model.id, replica.application, replica.deployment, loader.name
                entries[key].append(ModelOnReplica(**msgspec.structs.asdict(model), replica=replica.replica))
    ids = sorted({key[0] for key in entries})
    last = ids[asked.limit - 1] if len(ids) > asked.limit else None
    page = [_entry(*key, on=entries[key]) for key in sorted(entries) if last is None or key[0] <= last]
    return Models(models=page, total=total, next=last)


def _entry(model_id: str, application: str, deployment: str, loader: str, *, on: list[ModelOnReplica]) -> ModelEntry:
    return ModelEntry(
        id=model_id,
        application=application,
        deployment=deployment,
        loader=loader,
        pinned=any(model.pinned for model in on),
        aliases=sorted({alias for model in on for alias in model.aliases}),
        replicas=on,
    )


# What is done to them


async def load(it: Administered, request: Request) -> Nothing:
    await steering.load(*await _meant(it, request))
    return Nothing()


async def prefetch(it: Administered, request: Request) -> Answer:
    await steering.prefetch(*await _meant(it, request))
    return Answer(Nothing(), 202)


def _counted(what: Callable[..., Awaitable[int]]) -> Callable[[Administered, Request], Awaitable[Held]]:
    async def handler(it: Administered, request: Request) -> Held:
        return Held(await what(*await _meant(it, request)))

    return handler


unload, pin, unpin = map(_counted, (steering.unload, steering.pin, steering.unpin))


async def set_alias(it: Administered, request: Request) -> Nothing:
    caller, application, deployment, alias, loader = await _meant(it, request)
    await steering.set_alias(caller, application, deployment, alias, request.given.version, loader)
    return Nothing()


async def drain(it: Administered, request: Request) -> Answer:
    name = request.parts["replica"]
    deployment = next((each for each in it.controller.deployments if name in each.processes.running), None)
    if deployment is None:
        raise RefusedError(404, f"There is no replica {name!r} that runs.")
    deployment.processes.replace(name, "is to be drained")
    return Answer(Draining(name), 202)


async def _meant(it: Administered, request: Request) -> tuple[Caller, str, str, str, str]:
    """The arguments of `steering`. Raises `RefusedError` if it is not clear which deployment is meant, or none is."""
    target: Target = request.given
    model_id = request.parts.get("model_id") or request.parts["alias"]
    known = it.controller.status().applications
    application = target.application or (next(iter(known)) if len(known) == 1 else "")
    if application not in known:
        names = ", ".join(sorted(known)) or "none"
        raise RefusedError(404, f"There is no application {application!r}; say which is meant, of: {names}.")
    deployments = known[application].deployments
    deployment = target.deployment
    if not deployment:
        found = await replicas_of(it, ModelsAsked(application=application, limit=0))
        with_models = sorted({replica.deployment for replica in found if replica.loaders})
        deployment = with_models[0] if len(with_models) == 1 else ""
        deployments = {name: deployments[name] for name in with_models if name in deployments} or deployments
    if deployment not in deployments:
        names = ", ".join(sorted(deployments)) or "none"
        raise RefusedError(404, f"There is no deployment {deployment!r}; say which is meant, of: {names}.")
    if not it.caller.has_deployment(application, deployment):
        raise errors.DeploymentUnavailableError(f"The deployment {deployment!r} has no replica that runs.")
    return it.caller, application, deployment, model_id, target.loader
