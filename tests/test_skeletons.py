"""Same-shape models: the right weights, never under somebody's hands, and as built in all else."""

import copy
import functools
import gc
import logging
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modelplex import serve, skeletons
from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.runtime.sizes import told_bytes

X = torch.ones(2, 4)


class Net(nn.Module):
    """Has what modules may have beside their weights: references to itself, buffers of both kinds, state of its own."""

    scratch: torch.Tensor
    offset: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 2, bias=False)
        self.register_buffer("offset", torch.zeros(2))
        self.register_buffer("scratch", torch.full((2,), 3.0), persistent=False)
        self.table = torch.arange(2.0)
        self.links = [self.first]
        self.itself = [self]
        self.method = self.forward
        self.act: Callable[[torch.Tensor], torch.Tensor] = lambda x: torch.relu(self.first(x))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        result: torch.Tensor = self.last(self.act(x)) + self.offset + self.scratch + self.table
        return result


@pytest.fixture
def pool() -> serve.SkeletonPool:
    return serve.SkeletonPool(Net)


@pytest.fixture(autouse=True)
def without_collections() -> Iterator[None]:
    """Nothing here may depend on when Python looks for cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def saved(folder: Path, seed: int, build: Callable[[], nn.Module] = Net) -> tuple[Path, nn.Module]:
    """A file of random weights, and a model built in the common way that has them."""
    torch.manual_seed(seed)
    module = build().eval()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(torch.rand_like(tensor)) if tensor.is_floating_point() else None
    path = folder / f"{seed}.safetensors"
    save_file(copied_state(module), path)
    return path, module


def copied_state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def answer(module: nn.Module, x: torch.Tensor = X) -> torch.Tensor:
    with torch.inference_mode():
        result: Any = module(x)
        tensor: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return tensor.clone()


def load_and_drop(pool: serve.SkeletonPool, path: Path) -> None:
    pool.load(path)


# Weights


ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "own": (Net, X),
    "encoder": (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), torch.rand(2, 3, 4)),
    "lstm": (lambda: nn.LSTM(4, 3, num_layers=2), torch.rand(5, 2, 4)),
    "norm": (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), torch.rand(5, 4)),
    "weight_norm": (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))), X),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_module_answers_as_each_model_in_turn(tmp_path: Path, name: str) -> None:
    build, x = ARCHITECTURES[name]
    pool = serve.SkeletonPool(build)
    for seed in (1, 2, 3, 1):
        path, wanted = saved(tmp_path, seed, build)
        model = pool.load(path)
        assert type(model) is type(wanted)
        assert torch.equal(answer(model, x), answer(wanted, x))
        del model
    assert (pool.built, pool.reused) == (1, 3)


def test_a_model_of_transformers_that_has_generated_is_used_again(tmp_path: Path) -> None:
    import transformers  # comes with peft, and takes its time

    sizes: dict[str, Any] = {"vocab_size": 20, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 19, "pad_token_id": 19}

    def build() -> Any:
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ids))

    def generate(model: Any) -> Any:
        return model.generate(torch.arange(1, 5).reshape(1, 4), max_new_tokens=4, do_sample=False)

    pool = serve.SkeletonPool(build)
    for seed in (1, 2, 1):
        path, wanted = saved(tmp_path, seed, build)
        model = pool.load(path)
        assert torch.equal(generate(model), generate(wanted))
        del model
    assert pool.built == 1


def test_models_that_are_used_at_a_time_have_a_module_each(tmp_path: Path, pool: serve.SkeletonPool) -> None:
    files = [saved(tmp_path, seed) for seed in (1, 2, 3)]
    models = [pool.load(path) for path, _ in files]
    for model, (_, wanted) in zip(models, files, strict=True):
        assert torch.equal(answer(model), answer(wanted))
    assert pool.built == 3


def test_a_file_that_torch_wrote_is_loaded_as_well(tmp_path: Path, pool: serve.SkeletonPool) -> None:
    _, wanted = saved(tmp_path, 1)
    torch.save(wanted.state_dict(), tmp_path / "model.pt")
    assert torch.equal(answer(pool.load(tmp_path / "model.pt")), answer(wanted))


def test_a_cache_counts_exactly_the_parameters_and_buffers(tmp_path: Path, pool: serve.SkeletonPool) -> None:
    model = pool.load(saved(tmp_path, 1)[0])
    assert told_bytes(model) == 4 * (4 * 8 + 8 + 8 * 2 + 2 + 2)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4, bias=False)
        self.two = nn.Linear(4, 4, bias=False)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.two(self.one(x))
        return result


@pytest.mark.parametrize("names", [["one.weight"], ["two.weight"], ["one.weight", "two.weight"]])
def test_tied_weights_come_from_any_of_their_names(tmp_path: Path, names: list[str]) -> None:
    pool = serve.SkeletonPool(Tied)
    for n in (1.0, 2.0):
        save_file({name: torch.eye(4) * n for name in names}, tmp_path / "tied.safetensors")
        model = pool.load(tmp_path / "tied.safetensors")
        assert torch.equal(answer(model), X * n * n)
        del model
    assert pool.built == 1


def test_a_file_in_which_tied_weights_differ_is_refused(tmp_path: Path) -> None:
    save_file({"one.weight": torch.eye(4), "two.weight": torch.ones(4, 4)}, tmp_path / "untied.safetensors")
    with pytest.raises(InvalidModelFileError, match=r"one\.weight and two\.weight differ"):
        serve.SkeletonPool(Tied).load(tmp_path / "untied.safetensors")


# Whoever still uses a part


def dlpack(model: Any) -> object:
    return torch.utils.dlpack.from_dlpack(model.last.weight.detach())


HOLDERS: dict[str, Callable[[Any], object]] = {
    "model": lambda model: model,
    "shallow copy": copy.copy,
    "attributes": vars,
    "submodule": lambda model: model.first,
    "method of a submodule": lambda model: model.first.forward,
    "attributes of a submodule": lambda model: vars(model.last),
    "modules": lambda model: model._modules,
    "parameter": lambda model: model.last.weight,
    "generator": lambda model: iter(model.parameters()),
    "state dict": lambda model: model.state_dict(),
    "view": lambda model: model.last.weight[0],
    "array": lambda model: model.last.weight.numpy(),
    "memory": dlpack,
    "list": lambda model: model.links,
    "the skeleton itself": lambda model: model.itself[0],
    "its bound method": lambda model: model.method,
    "closure": lambda model: model.act,
    "partial": lambda model: functools.partial(model.first, X),
    "compiled": lambda model: torch.compile(model),
    "graph": lambda model: model.requires_grad_(True)(X),
    "weight in a graph": lambda model: (model.first.weight.requires_grad_(True) * 2).sum(),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_a_module_of_which_anything_is_held_gets_no_other_weights(
    tmp_path: Path, pool: serve.SkeletonPool, name: str
) -> None:
    (one, _), (two, wanted) = saved(tmp_path, 1), saved(tmp_path, 2)
    model: Any = pool.load(one)
    before, watched = copied_state(model.last), weakref.ref(model.last.weight)
    held = HOLDERS[name](model)
    del model

    other = pool.load(two)

    assert torch.equal(answer(other), answer(wanted))
    assert pool.built == 2
    weight = watched()
    assert weight is not None
    assert torch.equal(weight, before["weight"])
    del held


def test_what_is_held_for_a_moment_is_used_again_later(tmp_path: Path, pool: serve.SkeletonPool) -> None:
    path, _ = saved(tmp_path, 1)
    held: Any = pool.load(path).first
    load_and_drop(pool, path)
    assert pool.built == 2
    del held
    models = [pool.load(path), pool.load(path)]
    assert (pool.built, pool.reused) == (2, 2)
    del models


def test_what_is_held_for_longer_is_given_up_and_the_log_says_why(
    tmp_path: Path, pool: serve.SkeletonPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(skeletons, "HELD_S", -1.0)
    path, _ = saved(tmp_path, 1)
    held: Any = pool.load(path).first
    watched = weakref.ref(held)
    with caplog.at_level(logging.WARNING):
        model = pool.load(path)
    assert "built anew, since something still holds parts of the last model (Linear" in caplog.text
    del held
    gc.collect()  # the module refers to itself
    assert watched() is None
    del model


def test_a_deep_copy_is_a_module_of_its_own(tmp_path: Path) -> None:
    pool = serve.SkeletonPool(Tied)
    (one, wanted), (two, _) = saved(tmp_path, 1, Tied), saved(tmp_path, 2, Tied)
    copied = copy.deepcopy(pool.load(one))
    load_and_drop(pool, two)
    assert pool.built == 1
    assert torch.equal(answer(copied), answer(wanted))


def empty(folder: Path) -> Path:
    save_file({}, folder / "empty.safetensors")
    return folder / "empty.safetensors"


def test_so_is_what_comes_from_a_pickle(tmp_path: Path) -> None:
    pool = serve.SkeletonPool(Tied)
    (one, wanted), (two, _) = saved(tmp_path, 1, Tied), saved(tmp_path, 2, Tied)
    copied = pickle.loads(pickle.dumps(pool.load(one)))
    load_and_drop(pool, two)
    assert pool.built == 1
    assert torch.equal(answer(copied), answer(wanted))


def test_a_model_that_refers_to_itself_is_freed_and_not_used_again(tmp_path: Path) -> None:
    pool = serve.SkeletonPool(lambda: nn.Sequential(nn.Linear(4, 2)), free_max=1)
    path, _ = saved(tmp_path, 1, lambda: nn.Sequential(nn.Linear(4, 2)))
    model: Any = pool.load(path)
    watched = weakref.ref(model[0].weight)
    model[0].register_forward_hook(model.extra_repr)  # a hook that holds the model that it is on
    del model
    gc.collect()
    others = [pool.load(path), pool.load(path)]
    assert pool.built == 3
    del others[:]
    gc.collect()
    assert watched() is None


def test_no_more_are_kept_than_free_max(tmp_path: Path) -> None:
    pool = serve.SkeletonPool(Tied, free_max=2)
    path, _ = saved(tmp_path, 1, Tied)
    models: list[Any] = [pool.load(path) for _ in range(5)]
    watched = [weakref.ref(model.one) for model in models]
    del models[:]
    assert sum(ref() is not None for ref in watched) == 2


# As it was built


def change(model: Any) -> None:
    model.train().requires_grad_(True)
    model(X).sum().backward()
    model.register_forward_hook(lambda *args: None)
    model.first.register_forward_pre_hook(lambda *args: None)
    model.first.extra = "an attribute"
    model.calls = 100
    model.links.append("something")
    with torch.no_grad():
        model.scratch.fill_(7)
        model.table.fill_(7)
        model.offset.fill_(7)


def test_the_next_model_finds_all_as_it_was_built(tmp_path: Path, pool: serve.SkeletonPool) -> None:
    (one, _), (two, wanted) = saved(tmp_path, 1), saved(tmp_path, 2)
    model: Any = pool.load(one)
    change(model)
    del model

    model = pool.load(two)

    assert pool.built == 1
    assert torch.equal(answer(model), answer(wanted))
    assert not any(module.training for module in model.modules())
    assert not any(tensor.requires_grad or tensor.grad is not None for tensor in model.parameters())
    assert not model._forward_hooks
    assert not model.first._forward_pre_hooks
    assert not hasattr(model.first, "extra")
    assert len(model.links) == 1
    assert model.table.tolist() == [0.0, 1.0]


CHANGES: dict[str, Callable[[Any], object]] = {
    "another layer": lambda model: setattr(model, "last", nn.Linear(8, 2, bias=False)),
    "another parameter": lambda model: setattr(model.last, "weight", nn.Parameter(torch.ones(2, 8))),
    "another memory": lambda model: setattr(model.last.weight, "data", torch.ones(2, 8)),
    "another type": lambda model: model.double(),
    "another shape": lambda model: model.last.weight.t_(),
    "another buffer": lambda model: model.register_buffer("scratch", torch.ones(2), persistent=False),
    "no layer": lambda model: delattr(model.first, "bias"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_that_was_rebuilt_by_its_user_is_not_used_again(
    tmp_path: Path, pool: serve.SkeletonPool, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, wanted = saved(tmp_path, 1)
    model = pool.load(path)
    CHANGES[name](model)
    del model
    with caplog.at_level(logging.WARNING):
        model = pool.load(path)
    assert pool.built == 2
    assert torch.equal(answer(model), answer(wanted))
    assert "built anew" in caplog.text


def test_a_layer_that_the_model_was_deprived_of_and_that_is_held_is_left_alone(
    tmp_path: Path, pool: serve.SkeletonPool
) -> None:
    """What the module lost and what its user won make up for each other."""
    (one, _), (two, _) = saved(tmp_path, 1), saved(tmp_path, 2)
    model: Any = pool.load(one)
    held = model.last
    before = held.weight.clone()
    model.last = None
    del model
    load_and_drop(pool, two)
    assert torch.equal(held.weight, before)
    assert pool.built == 2


# Files that do not fit


def test_a_file_that_does_not_fit_is_told_with_its_differences(tmp_path: Path, pool: serve.SkeletonPool) -> None:
    path, wanted = saved(tmp_path, 1)
    load_and_drop(pool, path)
    state = copied_state(wanted)
    del state["first.bias"]
    state |= {"more": torch.ones(1), "offset": torch.ones(3), "last.weight": torch.ones(2, 8).half()}
    save_file(state, tmp_path / "bad.safetensors")

    with pytest.raises(InvalidModelFileError) as error:
        pool.load(tmp_path / "bad.safetensors")

    assert "bad.safetensors does not fit the Net that it is for" in str(error.value)
    for part in ("first.bias is missing", "more is not expected", "offset is float32[3], not float32[2]"):
        assert part in str(error.value)
    assert "last.weight is float16[2, 8], not float32[2, 8]" in str(error.value)
    del error
    assert torch.equal(answer(pool.load(path)), answer(wanted))
    assert pool.built == 1


def test_of_many_differences_some_are_shown(tmp_path: Path, pool: serve.SkeletonPool) -> None:
    save_file({f"layer_{n}": torch.ones(1) for n in range(20)}, tmp_path / "other.safetensors")
    with pytest.raises(InvalidModelFileError, match="; and 19 more"):
        pool.load(tmp_path / "other.safetensors")


def test_a_module_that_is_half_written_is_never_used(
    tmp_path: Path, pool: serve.SkeletonPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = saved(tmp_path, 1)
    load_and_drop(pool, path)
    torch.save({n: t.to("meta") if n == "last.weight" else t for n, t in wanted.state_dict().items()}, tmp_path / "x")
    original = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: original(tmp_path / "x", weights_only=True))
    with pytest.raises(NotImplementedError):  # there is nothing to copy from
        pool.load(tmp_path / "x")
    monkeypatch.undo()
    assert torch.equal(answer(pool.load(path)), answer(wanted))
    assert pool.built == 2


def test_a_module_that_is_pickled_as_a_whole_is_refused(tmp_path: Path, pool: serve.SkeletonPool) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(UnsafeModelFileError, match="pickled objects other than tensors"):
        pool.load(tmp_path / "model.pt")


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path, pool: serve.SkeletonPool) -> None:
    with pytest.raises(FileNotFoundError):
        pool.load(tmp_path / "nothing.safetensors")


# Factories


class WithEnd(nn.Linear):
    def __del__(self) -> None: ...


class WithState(nn.Linear):
    def get_extra_state(self) -> torch.Tensor:
        return torch.ones(1)

    def set_extra_state(self, state: object) -> None: ...


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: "no module", "builds torch modules, got str"),
        (lambda: torch.jit.script(nn.Linear(2, 2)), "scripted"),
        (lambda: WithEnd(2, 2), "WithEnd has a __del__"),
        (lambda: WithState(2, 2), "_extra_state"),
        (lambda: nn.LazyLinear(2), "no memory yet"),
        (lambda: nn.Linear(2, 2, device="meta"), "no memory yet"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_what_cannot_be_used_again_is_refused(tmp_path: Path, factory: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        serve.SkeletonPool(factory).load(empty(tmp_path))


def test_a_factory_that_builds_on_what_it_has_built_before_is_refused(tmp_path: Path) -> None:
    shared = nn.Linear(4, 4, bias=False)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False).requires_grad_(False), shared)

    pool = serve.SkeletonPool(build)
    path, _ = saved(tmp_path, 1, build)
    model = pool.load(path)
    with pytest.raises(TypeError, match=r"2\.weight is that of another module as well"):
        pool.load(path)
    del model


@pytest.mark.parametrize("free_max", [0, -1, True, 1.5])
def test_at_least_one_is_kept(free_max: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        serve.SkeletonPool(Net, free_max=free_max)


def test_a_pool_travels_by_its_arguments() -> None:
    pool = pickle.loads(cloudpickle.dumps(serve.SkeletonPool(Tied, free_max=7)))
    assert pool._free.maxlen == 7


# Threads


def test_threads_get_what_they_asked_for(tmp_path: Path) -> None:
    """Each holds its model while others load and drop theirs; ends come in all threads."""
    gc.enable()
    pool = serve.SkeletonPool(Tied)
    files = [saved(tmp_path, seed, Tied) for seed in range(6)]
    wanted = [answer(module) for _, module in files]
    begin = threading.Barrier(4)

    def run(thread: int) -> None:
        begin.wait()
        for step in range(40):
            number = (step * (thread + 1) + thread) % len(files)
            model = pool.load(files[number][0])
            assert torch.equal(answer(model), wanted[number])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, range(4)))
    assert pool.built + pool.reused == 160
    assert pool.reused > 0
