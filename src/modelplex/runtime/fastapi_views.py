"""Endpoints of FastAPI apps that are methods: sees that `self` is the replica's object.

FastAPI has read their signatures when they were decorated, before there was a class, and takes `self` for a part of the
query. Their routes are made again, in place, with a `self` that is a dependency. Which object that is, is asked for
with each request, so that several replicas in one process can share an app.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.dependencies.utils import get_typed_return_annotation, get_typed_signature
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute

from modelplex import context

Function = Callable[..., Any]


def bind(app: Any, owner: type) -> None:
    """Prepare a FastAPI app, with or without middleware round it, for a class. Nothing happens to other apps."""
    while not isinstance(app, FastAPI):
        app = getattr(app, "app", None)
        if app is None:
            return
    methods = {id(function) for cls in owner.__mro__ for member in vars(cls).values() for function in _chain(member)}
    for router, routes in list(_routers(app, set())):
        changed = [_bind_route(route, methods, app) for route in routes]
        if any(changed) and hasattr(router, "_mark_routes_changed"):
            router._mark_routes_changed()  # newer routers that include it keep copies
    app.openapi_schema = None  # older ones keep it


async def replica_object() -> Any:
    """The `self` of endpoints. FastAPI would call a plain function in a thread."""
    return context.replica().context.servable_object


def _chain(member: object) -> Iterator[Function]:
    """A function, and those that it decorates."""
    while inspect.isfunction(member):
        yield member
        member = getattr(member, "__wrapped__", None)


def _routers(holder: Any, seen: set[int]) -> Iterator[tuple[Any, list[BaseRoute]]]:
    """The routers of an app, included ones and mounted apps too, with their routes."""
    router = getattr(holder, "router", holder)
    if id(router) in seen:
        return
    seen.add(id(router))
    routes = list(getattr(router, "routes", None) or ())
    yield router, routes
    for route in routes:
        for inner in (getattr(route, "original_router", None), getattr(route, "app", None)):
            if hasattr(inner, "routes"):
                yield from _routers(inner, seen)


def _bind_route(route: BaseRoute, methods: set[int], app: FastAPI) -> bool:
    """Make a route again if its endpoint, or what that depends on, are methods that it takes for functions."""
    if not isinstance(route, APIRoute | APIWebSocketRoute):
        return False
    functions = [d.call for d in _tree(route.dependant) if id(d.call) in methods and not _knows_self(d)]
    for function in functions:
        if replica_object not in _defaults(function):
            function.__signature__ = _with_self(function)
    if functions:
        kind = APIRoute if isinstance(route, APIRoute) else APIWebSocketRoute
        names = inspect.signature(kind.__init__).parameters
        made = {"dependency_overrides_provider": app} | {n: getattr(route, n) for n in names if hasattr(route, n)}
        if getattr(route, "stream_item_type", None) is not None:
            del made["response_model"]  # of a generator, it is in the signature
        made["endpoint"] = _in_thread(route.endpoint) if id(route.endpoint) in methods else route.endpoint
        kind.__init__(route, **made)  # type: ignore[arg-type]
    return bool(functions)


def _tree(dependant: Any) -> Iterator[Any]:
    yield dependant
    for inner in dependant.dependencies:
        yield from _tree(inner)


def _knows_self(dependant: Any) -> bool:
    return any(inner.call is replica_object for inner in dependant.dependencies)


def _defaults(function: Function) -> list[object]:
    """What the parameters depend on."""
    return [getattr(p.default, "dependency", None) for p in inspect.signature(function).parameters.values()]


def _with_self(function: Function) -> inspect.Signature:
    """The signature with a first parameter that FastAPI fills in, and annotations that need no module's names."""
    first, *others = get_typed_signature(function).parameters.values()
    parameters = [first.replace(default=Depends(replica_object), annotation=Any)]
    parameters += [p if p.kind is p.VAR_KEYWORD else p.replace(kind=p.KEYWORD_ONLY) for p in others]
    return inspect.Signature(parameters, return_annotation=get_typed_return_annotation(function))


def _in_thread(function: Function) -> Function:
    """An endpoint that a cancellation waits for if it runs in a thread: until then its models are in use."""
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    if any(is_kind(inspect.unwrap(function)) or is_kind(function) for is_kind in kinds):
        return function

    async def view(**arguments: Any) -> Any:
        return await context.replica().in_thread(functools.partial(function, **arguments))

    functools.update_wrapper(view, function)
    del view.__wrapped__  # type: ignore[attr-defined] # FastAPI looks there for what is async
    view.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return view
