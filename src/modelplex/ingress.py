"""`@ingress`: has an ASGI app answer what comes to a class over HTTP and WebSockets."""

import copyreg
import inspect
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

_MARK = "__modelplex_ingress__"

C = TypeVar("C", bound=type)


class _Decorator(Protocol):
    """What `ingress` returns."""

    @overload
    def __call__(self, cls: C) -> C: ...

    @overload
    def __call__(self) -> type: ...


@dataclass(frozen=True)
class Ingress:
    """What answers for a class: an ASGI app, or a function without arguments that builds one in the replica."""

    app_or_builder: Callable[..., Any]

    @property
    def is_builder(self) -> bool:
        made = self.app_or_builder
        return inspect.isroutine(made) and not inspect.signature(made).parameters


def ingress(app: Callable[..., Any]) -> _Decorator:
    """Decorate a class, below `@serve.deployment`, so that an app answers its HTTP requests and WebSockets.

    Args:
        app: a FastAPI app, any other ASGI app, or a function without arguments that builds one; it is called in the
            replica, once the class's object has been constructed.

    Methods of the class that are endpoints of a FastAPI app (`@app.get("/")`, `@app.websocket("/")`) or of its routers,
    and those that such endpoints depend on, have the replica's object as `self`. Methods can be called by handles, too.

    An app that needs no such object is served by `serve.deployment(serve.ingress(app)())`, by an empty class.

    Raises:
        TypeError: `app` is no ASGI app and no builder.
        ValueError: what is decorated is no class, or is one that defines `__call__`.
    """
    if inspect.isclass(app) or not callable(app):
        raise TypeError(f"@serve.ingress takes an ASGI app, or a function that builds one; got {app!r}.")
    _let_travel()

    def decorate(cls: Any = None) -> Any:
        if cls is None:
            cls = type("ASGIApp", (), {})
        if not inspect.isclass(cls):
            raise ValueError(f"@serve.ingress decorates a class, and stands below @serve.deployment; got {cls!r}.")
        if any("__call__" in vars(base) for base in cls.__mro__):
            raise ValueError(
                f"{cls.__name__} defines __call__, which would never be called: with @serve.ingress, the app answers. "
                "Give the method another name."
            )
        setattr(cls, _MARK, Ingress(app))
        return cls

    return decorate


def ingress_of(cls: type) -> Ingress | None:
    """What `ingress` has made of a class."""
    found = getattr(cls, _MARK, None)
    return found if isinstance(found, Ingress) else None


# What of Starlette and FastAPI does not pickle: the state of an app, whose __getattr__ does not expect to be asked
# before it is complete, and the locks of included routers.


def _let_travel() -> None:
    """See that their apps can be pickled. Nothing is imported for it."""
    for module, name, reduce in _REDUCERS:
        cls = getattr(sys.modules.get(module), name, None)
        if cls is not None and cls not in copyreg.dispatch_table:
            copyreg.pickle(cls, reduce)


def _reduce_state(state: Any) -> tuple[Any, ...]:
    return type(state), (state._state,)


def _reduce_with_locks(value: object) -> tuple[Any, ...]:
    lock = type(threading.Lock())
    names = [name for name, part in vars(value).items() if isinstance(part, lock)]
    state = {name: part for name, part in vars(value).items() if name not in names}
    return _with_new_locks, (type(value), names), state


def _with_new_locks(cls: type, names: list[str]) -> object:
    value: object = object.__new__(cls)
    for name in names:
        setattr(value, name, threading.Lock())
    return value


_REDUCERS: list[tuple[str, str, Callable[[Any], tuple[Any, ...]]]] = [
    ("starlette.datastructures", "State", _reduce_state),
    ("fastapi.routing", "_IncludedRouter", _reduce_with_locks),
]
