"""`@multiplexed`: what it accepts, what its calls accept, and where a replica finds the loaders."""

import abc
import asyncio
import gc
import inspect
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import cloudpickle
import pytest

from modelplex import context
from modelplex.context import ReplicaContext
from modelplex.errors import NotInReplicaError
from modelplex.multiplex import Loader, lease, loaders_of, multiplexed, prefetch

Decorate = Callable[[Any], Callable[..., Awaitable[Any]]]


class FakeReplica:
    """Answers with what it was asked for."""

    context = ReplicaContext("default", "Model", "EjYmnQ")

    async def get_model(self, loader: Loader, owner: object, model_id: str) -> Any:
        return loader.name, owner, model_id

    def lease_model(self, loader: Loader, owner: object, model_id: str) -> AbstractAsyncContextManager[Any]:
        return nullcontext((loader.name, owner, model_id))

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        return call()


@pytest.fixture
def _in_replica() -> Iterator[None]:
    context.set_replica(FakeReplica())
    yield
    context.set_replica(None)


def bare(func: Any) -> Callable[..., Awaitable[Any]]:
    return multiplexed(func)


def with_options(func: Any) -> Callable[..., Awaitable[Any]]:
    return multiplexed(max_num_models_per_replica=2)(func)


def with_empty_brackets(func: Any) -> Callable[..., Awaitable[Any]]:
    return multiplexed()(func)


both_forms = pytest.mark.parametrize("decorate", [bare, with_options, with_empty_brackets])


def loader_of(decorated: object) -> Loader:
    """The loader of a decorated function, which only its mark knows."""
    [loader] = loaders_of(type("Holder", (), {"load": decorated})())
    return loader


async def run(call: Awaitable[Any]) -> Any:
    return await call


# The option


@pytest.mark.parametrize("models_max", ["3", 2.5, [3], b"3"])
def test_the_limit_must_be_an_integer(models_max: Any) -> None:
    with pytest.raises(TypeError, match="max_num_models_per_replica must be an integer, got"):
        multiplexed(max_num_models_per_replica=models_max)


@pytest.mark.parametrize("models_max", [0, -2, -100, False])
def test_the_limit_must_leave_room_for_a_model(models_max: int) -> None:
    with pytest.raises(ValueError, match="max_num_models_per_replica must be at least 1, or -1"):
        multiplexed(max_num_models_per_replica=models_max)


def test_a_wrong_limit_beside_the_function_is_refused_too() -> None:
    def load(model_id: str) -> str:
        return model_id

    with pytest.raises(ValueError, match="at least 1"):
        multiplexed(load, 0)
    with pytest.raises(TypeError, match="an integer"):
        multiplexed(load, max_num_models_per_replica="3")  # type: ignore[call-overload]


@pytest.mark.parametrize("models_max", [1, 3, 10_000, -1, True])
def test_a_good_limit_becomes_the_loaders(models_max: int) -> None:
    @multiplexed(max_num_models_per_replica=models_max)
    async def load(model_id: str) -> str:
        return model_id

    assert loader_of(load).options.models_max == models_max


@pytest.mark.parametrize("decorate", [bare, with_empty_brackets])
def test_a_loader_holds_three_models_unless_told_otherwise(decorate: Decorate) -> None:
    async def load(model_id: str) -> str:
        return model_id

    assert loader_of(decorate(load)).options.models_max == 3


# What can be decorated, the same for both forms


@both_forms
@pytest.mark.parametrize("thing", [5, "load", object(), [1], {"a": 1}])
def test_only_functions_can_be_decorated(decorate: Decorate, thing: object) -> None:
    with pytest.raises(TypeError, match="decorates a function or a method, got"):
        decorate(thing)


async def _no_argument() -> None: ...
async def _three_arguments(self: Any, model_id: str, version: str) -> None: ...
async def _three_with_a_default(self: Any, model_id: str, version: str = "1") -> None: ...
async def _any_arguments(*args: str) -> None: ...
async def _self_and_any_arguments(self: Any, *args: str) -> None: ...
async def _any_options(model_id: str, **options: str) -> None: ...
async def _by_keyword_only(*, model_id: str) -> None: ...
async def _option_by_keyword_only(model_id: str, *, version: str = "1") -> None: ...
def _plain_without_argument() -> None: ...
def _plain_with_three(self: Any, model_id: str, version: str) -> None: ...


@both_forms
@pytest.mark.parametrize(
    "func",
    [
        _no_argument,
        _three_arguments,
        _three_with_a_default,
        _any_arguments,
        _self_and_any_arguments,
        _any_options,
        _by_keyword_only,
        _option_by_keyword_only,
        _plain_without_argument,
        _plain_with_three,
    ],
)
def test_a_loader_takes_the_model_id_alone(decorate: Decorate, func: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=rf"takes exactly one argument, the model ID .*{func.__name__}\("):
        decorate(func)


def _generator(model_id: str) -> Iterator[str]:
    yield model_id


async def _async_generator(model_id: str) -> AsyncIterator[str]:
    yield model_id


@both_forms
@pytest.mark.parametrize("func", [_generator, _async_generator])
def test_a_loader_cannot_be_a_generator(decorate: Decorate, func: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="cannot be a generator"):
        decorate(func)


async def _async_function(model_id: str) -> str:
    """Loads."""
    return model_id


def _plain_function(model_id: str) -> str:
    """Loads."""
    return model_id


async def _async_method(self: object, model_id: str) -> str:
    """Loads."""
    return model_id


def _plain_method(self: object, model_id: str) -> str:
    """Loads."""
    return model_id


@both_forms
@pytest.mark.parametrize(
    ("func", "is_async", "is_method"),
    [
        (_async_function, True, False),
        (_plain_function, False, False),
        (_async_method, True, True),
        (_plain_method, False, True),
    ],
)
def test_functions_and_methods_plain_and_async_are_told_apart(
    decorate: Decorate, func: Callable[..., Any], is_async: bool, is_method: bool
) -> None:
    loader = loader_of(decorate(func))
    assert (loader.func, loader.name) == (func, func.__name__)
    assert (loader.is_async, loader.is_method) == (is_async, is_method)


class _AsyncCallable:
    async def __call__(self, model_id: str) -> str:
        return model_id


class _PlainCallable:
    def __call__(self, model_id: str) -> str:
        return model_id


@both_forms
@pytest.mark.parametrize(("func", "is_async"), [(_AsyncCallable(), True), (_PlainCallable(), False)])
def test_an_object_that_is_called_like_a_function_is_one(decorate: Decorate, func: Any, is_async: bool) -> None:
    loader = loader_of(decorate(func))
    assert (loader.is_async, loader.is_method) == (is_async, False)
    assert loader.name == type(func).__name__


@both_forms
@pytest.mark.parametrize("func", [_async_function, _plain_function])
def test_the_decorated_function_looks_like_the_loader(decorate: Decorate, func: Callable[..., Any]) -> None:
    decorated = decorate(func)
    assert decorated.__name__ == func.__name__
    assert decorated.__doc__ == "Loads."
    assert asyncio.iscoroutinefunction(decorated)


# Calls


@both_forms
@pytest.mark.parametrize("func", [_async_function, _plain_function])
@pytest.mark.usefixtures("_in_replica")
async def test_a_function_is_called_with_the_model_id(decorate: Decorate, func: Callable[..., Any]) -> None:
    assert await decorate(func)("m1") == (func.__name__, None, "m1")


@both_forms
@pytest.mark.parametrize("func", [_async_method, _plain_method])
@pytest.mark.usefixtures("_in_replica")
async def test_a_method_is_called_with_the_model_id(decorate: Decorate, func: Callable[..., Any]) -> None:
    owner = type("Owner", (), {"load": decorate(func)})()
    assert await owner.load("m1") == (func.__name__, owner, "m1")


@both_forms
@pytest.mark.usefixtures("_in_replica")
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        (("a", "b"), {}),
        (("a", "b", "c"), {}),
        ((), {"model_id": "a"}),
        (("a",), {"version": "1"}),
        (("a",), {"model_id": "a"}),
    ],
)
async def test_a_call_has_one_positional_argument(
    decorate: Decorate, args: tuple[str, ...], kwargs: dict[str, str]
) -> None:
    owner = type("Owner", (), {"load": decorate(_async_method)})()
    for load in (decorate(_async_function), owner.load):
        with pytest.raises(TypeError, match="takes exactly one positional argument, the model ID"):
            await load(*args, **kwargs)


@pytest.mark.usefixtures("_in_replica")
async def test_a_wrong_call_is_told_what_it_gave_without_the_instance() -> None:
    owner = type("Owner", (), {"load": multiplexed(_async_method)})()
    with pytest.raises(TypeError, match=r"_async_method is decorated .* got \('a', 5, version='1'\)\.$"):
        await owner.load("a", 5, version="1")


@both_forms
@pytest.mark.usefixtures("_in_replica")
@pytest.mark.parametrize("model_id", [None, 1, b"m1", ["m1"], 1.5])
async def test_a_model_id_is_a_str(decorate: Decorate, model_id: Any) -> None:
    owner = type("Owner", (), {"load": decorate(_async_method)})()
    for load in (decorate(_async_function), owner.load):
        with pytest.raises(TypeError, match="The model ID must be a str, got"):
            await load(model_id)


@both_forms
@pytest.mark.parametrize("error", [RuntimeError, NotInReplicaError])
async def test_there_are_no_models_outside_of_a_replica(decorate: Decorate, error: type[Exception]) -> None:
    with pytest.raises(error, match="only inside of a replica"):
        await decorate(_async_function)("m1")


# Standalone loaders


def test_a_function_is_registered_and_a_method_is_not() -> None:
    assert loader_of(multiplexed(_async_function)) in Loader.standalone
    assert loader_of(multiplexed(_async_method)) not in Loader.standalone


def test_a_function_that_is_forgotten_is_no_longer_registered() -> None:
    before = set(Loader.standalone)
    decorated = multiplexed(lambda model_id: model_id)
    assert len(set(Loader.standalone) - before) == 1
    del decorated
    gc.collect()
    assert not set(Loader.standalone) - before


def _made_here() -> Callable[..., Awaitable[Any]]:
    """A loader as a program's main module has it: no import leads to it, so it is pickled by value."""

    @multiplexed(max_num_models_per_replica=7)
    async def load(model_id: str) -> str:
        return f"loaded {model_id}"

    return load


async def test_a_standalone_loader_registers_where_it_is_unpickled() -> None:
    data = cloudpickle.dumps(_made_here())
    before = set(Loader.standalone)
    arrived = pickle.loads(data)
    [loader] = set(Loader.standalone) - before
    assert loader is loader_of(arrived)
    assert (loader.name, loader.options.models_max, loader.is_async, loader.is_method) == ("load", 7, True, False)
    assert await run(loader.func("m1")) == "loaded m1"


@pytest.mark.usefixtures("_in_replica")
async def test_an_unpickled_loader_can_be_called() -> None:
    arrived = pickle.loads(cloudpickle.dumps(_made_here()))
    assert await arrived("m1") == ("load", None, "m1")


def test_a_function_that_uses_a_loader_takes_it_along() -> None:
    load = _made_here()

    async def serve() -> Any:
        return await load("m1")

    data = cloudpickle.dumps(serve)
    before = set(Loader.standalone)
    arrived = pickle.loads(data)
    assert [loader.name for loader in set(Loader.standalone) - before] == ["load"]
    del arrived


def test_a_loader_that_calls_itself_can_be_pickled() -> None:
    @multiplexed
    async def load(model_id: str) -> Any:
        return model_id if model_id == "base" else await load("base")

    arrived = pickle.loads(cloudpickle.dumps(load))
    assert inspect.getclosurevars(loader_of(arrived).func).nonlocals == {"load": arrived}


# The loaders of a class


class Base:
    @multiplexed
    async def load(self, model_id: str) -> str:
        return model_id

    async def other(self, model_id: str) -> str:
        return model_id


class Several(Base):
    @multiplexed(max_num_models_per_replica=1)
    def load_tokenizer(self, model_id: str) -> str:
        return model_id

    @multiplexed(max_num_models_per_replica=-1)
    async def load_adapter(self, model_id: str) -> str:
        return model_id


class Overriding(Several):
    @multiplexed(max_num_models_per_replica=9)
    async def load(self, model_id: str) -> str:
        return model_id


class Undecorated(Base):
    async def load(self, model_id: str) -> str:
        return model_id


class Abstract(abc.ABC):
    @multiplexed
    async def load(self, model_id: str) -> str:
        return model_id

    @property
    @abc.abstractmethod
    def untouchable(self) -> str: ...


class Concrete(Abstract):
    @property
    def untouchable(self) -> str:
        raise AssertionError("looking for loaders runs no user code")


def names_and_limits(servable: object) -> dict[str, int]:
    return {loader.name: loader.options.models_max for loader in loaders_of(servable)}


def test_a_class_has_the_loaders_that_it_decorates() -> None:
    assert names_and_limits(Base()) == {"load": 3}


def test_each_of_several_loaders_is_found_with_its_own_limit() -> None:
    assert names_and_limits(Several()) == {"load": 3, "load_tokenizer": 1, "load_adapter": -1}


def test_a_loader_that_is_overridden_is_found_once_as_the_subclass_has_it() -> None:
    assert len(loaders_of(Overriding())) == 3
    assert names_and_limits(Overriding())["load"] == 9


def test_a_loader_that_is_overridden_by_a_plain_method_is_gone() -> None:
    assert loaders_of(Undecorated()) == []


def test_loaders_are_found_without_running_properties() -> None:
    assert names_and_limits(Concrete()) == {"load": 3}


def test_instances_share_the_loader_of_their_class() -> None:
    assert loaders_of(Base()) == loaders_of(Base()) == loaders_of(type("Sub", (Base,), {})())


@pytest.mark.parametrize("servable", [_async_function, lambda: None, None, 5])
def test_what_is_no_users_object_has_no_loaders(servable: object) -> None:
    assert loaders_of(servable) == []


@pytest.mark.usefixtures("_in_replica")
async def test_each_of_several_loaders_is_called_as_itself() -> None:
    several = Several()
    assert await several.load_tokenizer("a") == ("load_tokenizer", several, "a")
    assert await several.load_adapter("b") == ("load_adapter", several, "b")
    assert await several.load("c") == ("load", several, "c")


@pytest.mark.usefixtures("_in_replica")
def test_a_lease_and_a_prefetch_name_the_loader_and_its_owner() -> None:
    class Holder:
        @multiplexed
        async def get_model(self, model_id: str) -> None: ...

    async def main() -> None:
        holder = Holder()
        async with lease(holder.get_model, "a") as model:
            assert model == ("get_model", holder, "a")
        await prefetch(holder.get_model, "a")
        with pytest.raises(TypeError, match="not decorated"):
            await prefetch(main, "a")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"max_bytes_per_replica": "8 GB "}, ValueError, "max_bytes_per_replica must be a number of bytes"),
        ({"max_bytes_per_replica": 0}, ValueError, "max_bytes_per_replica"),
        ({"max_concurrent_loads": 0}, ValueError, "max_concurrent_loads"),
        ({"load_timeout_s": 0}, ValueError, "load_timeout_s"),
        ({"idle_ttl_s": "1"}, ValueError, "idle_ttl_s"),
        ({"min_residency_s": -1}, ValueError, "min_residency_s"),
        ({"eviction": "fifo"}, ValueError, "'lru' or 'gdsf'"),
        ({"size_of": 3}, TypeError, "size_of must be a function"),
        ({"resolve": "models"}, TypeError, "resolve must be a function"),
        ({"resolve_interval_s": 0}, ValueError, "resolve_interval_s must be a number above 0"),
        ({"resolve_interval_s": None}, ValueError, "resolve_interval_s"),
        ({"pinned": "a"}, TypeError, "pinned takes a list"),
        ({"pinned": ["a b"]}, ValueError, "malformed"),
        ({"pinned": ["a", "b", "c"]}, ValueError, "leaves no room"),
    ],
)
def test_a_wrong_option_is_named_with_what_would_be_right(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        multiplexed(**options)


def test_a_budget_in_bytes_lifts_the_default_count() -> None:
    @multiplexed(max_bytes_per_replica="1.5GiB")
    def load(model_id: str) -> None: ...

    assert (loader_of(load).options.bytes_max, loader_of(load).options.models_max) == (3 * 2**29, -1)
