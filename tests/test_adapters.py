"""Adapters over one base: the answers are those of PEFT, nothing mixes, and all of an adapter goes with it."""

import gc
import json
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from modelplex import serve
from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.runtime.sizes import told_bytes

X = torch.arange(15).reshape(3, 5)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.middle = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.encoder(self.embed(x)).transpose(1, 2)).transpose(1, 2)
        result: torch.Tensor = self.head(torch.relu(self.middle(x)).mean(1))
        return result


def new_base() -> Base:
    torch.manual_seed(0)
    return Base().eval()


@pytest.fixture
def adapters() -> serve.Adapters:
    return serve.Adapters(new_base)


def saved(folder: Path, seed: int, build: Callable[[], Any] = new_base, **options: Any) -> nn.Module:
    """Save an adapter as PEFT does, and answer a model of its own into which it is merged."""
    options = {"target_modules": ["middle", "head"], "init_lora_weights": False, **options}
    model = peft.get_peft_model(build(), peft.LoraConfig(**options))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.3)
    model.save_pretrained(str(folder))
    merged: nn.Module = model.merge_and_unload()
    return merged.eval()


def change_config(folder: Path, **options: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def answer(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model(X)
        return result.clone()


def assert_same(model: nn.Module, wanted: nn.Module) -> None:
    torch.testing.assert_close(answer(model), answer(wanted), rtol=1e-4, atol=1e-5)


KINDS: dict[str, dict[str, Any]] = {
    "linear": {},
    "rank and alpha": {"r": 3, "lora_alpha": 5},
    "rank-stabilised": {"r": 4, "use_rslora": True},
    "embedding": {"target_modules": ["embed"]},
    "convolution": {"target_modules": ["conv", "head"]},
    "inside of an encoder layer": {"target_modules": ["linear1", "linear2"]},
    "whole layers": {"target_modules": ["middle"], "modules_to_save": ["head"]},
    "patterns": {
        "target_modules": ["middle", "head", "linear1"],
        "rank_pattern": {"middle": 3},
        "alpha_pattern": {"encoder.linear1": 5, "^head": 2},
    },
    "a regular expression": {"target_modules": r".*\.linear\d|head"},
    "all": {"target_modules": "all-linear", "exclude_modules": ["out_proj"]},
    "DoRA": {"use_dora": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_answers_as_if_it_were_merged_into_a_base_of_its_own(
    tmp_path: Path, adapters: serve.Adapters, kind: str
) -> None:
    wanted = saved(tmp_path, 1, **KINDS[kind])
    model = adapters.load(tmp_path)
    assert type(model) is Base
    assert_same(model, wanted)
    assert not torch.allclose(answer(model), answer(adapters.base()))


def test_the_base_is_shared_and_stays_as_it_was(tmp_path: Path, adapters: serve.Adapters) -> None:
    saved(tmp_path / "a", 1, target_modules="all-linear", exclude_modules=["out_proj"], modules_to_save=["conv"])
    versions = [tensor._version for tensor in adapters.base().parameters()]
    model = adapters.load(tmp_path / "a")
    answer(model)
    assert {id(tensor) for tensor in adapters.base().parameters()} <= {id(tensor) for tensor in model.parameters()}
    fresh = new_base()
    assert [name for name, _ in adapters.base().named_modules()] == [name for name, _ in fresh.named_modules()]
    for name, tensor in adapters.base().state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name])
    assert [tensor._version for tensor in adapters.base().parameters()] == versions


def test_threads_call_different_adapters_of_one_base_at_once(tmp_path: Path, adapters: serve.Adapters) -> None:
    merged = [saved(tmp_path / str(n), n, r=n + 2) for n in range(4)]
    wanted = [answer(model) for model in merged]
    begin = threading.Barrier(8)

    def run(number: int) -> None:
        begin.wait()
        model = adapters.load(tmp_path / str(number % 4))
        for _ in range(30):
            torch.testing.assert_close(answer(model), wanted[number % 4], rtol=1e-4, atol=1e-5)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run, range(8)))


def test_an_adapter_counts_its_own_bytes(tmp_path: Path, adapters: serve.Adapters) -> None:
    saved(tmp_path, 1, r=4)
    model: Any = adapters.load(tmp_path)
    assert model.nbytes == told_bytes(model) == 4 * (4 * 16 + 16 * 4 + 4 * 16 + 4 * 4)


def test_all_of_an_adapter_goes_with_its_last_reference(tmp_path: Path, adapters: serve.Adapters) -> None:
    saved(tmp_path, 1, modules_to_save=["conv"])
    model: Any = adapters.load(tmp_path)
    base = {id(tensor) for tensor in adapters.base().parameters()}
    watched = [weakref.ref(tensor) for tensor in model.parameters() if id(tensor) not in base]
    gc.collect()
    gc.disable()
    try:
        del model
        assert len(watched) > 4
        assert not any(ref() is not None for ref in watched)
    finally:
        gc.enable()


def test_two_of_the_same_content_are_two(tmp_path: Path, adapters: serve.Adapters) -> None:
    wanted = saved(tmp_path, 1)
    one, two = adapters.load(tmp_path), adapters.load(tmp_path)
    assert one is not two
    del one
    assert_same(two, wanted)


def modules_alive() -> int:
    gc.collect()
    return sum(issubclass(type(item), nn.Module) for item in gc.get_objects())


def test_a_load_that_fails_half_way_leaves_nothing(
    tmp_path: Path, adapters: serve.Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = saved(tmp_path, 1)
    adapters.load(tmp_path)

    def fail(*args: object) -> None:
        raise OSError("the disk")

    before = modules_alive()
    with monkeypatch.context() as patch:
        patch.setattr(peft, "set_peft_model_state_dict", fail)
        with pytest.raises(OSError, match="the disk"):
            adapters.load(tmp_path)
    assert modules_alive() == before
    assert_same(adapters.load(tmp_path), wanted)


def test_a_model_of_transformers_generates(tmp_path: Path) -> None:
    import transformers  # comes with peft, and takes its time

    sizes: dict[str, Any] = {"vocab_size": 20, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}

    def build() -> Any:
        torch.manual_seed(0)
        config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=19, pad_token_id=19)
        model: Any = transformers.GPT2LMHeadModel(config)
        return model.eval()

    wanted: Any = saved(tmp_path, 1, build, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    model: Any = serve.Adapters(build).load(tmp_path)
    torch.testing.assert_close(model(X).logits, wanted(X).logits, rtol=1e-4, atol=1e-5)
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(X, **options), wanted.generate(X, **options))


# What is refused


def test_weights_that_are_pickled_are_refused_unless_they_are_trusted(tmp_path: Path, adapters: serve.Adapters) -> None:
    wanted = saved(tmp_path, 1)
    torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UnsafeModelFileError, match=r"is a pickle, which may run any code .* trusted=True"):
        adapters.load(tmp_path)
    assert_same(serve.Adapters(new_base, trusted=True).load(tmp_path), wanted)


def test_code_in_pickled_weights_is_not_run_even_then(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    torch.save(nn.Linear(2, 2), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UnsafeModelFileError, match="pickled objects other than tensors"):
        serve.Adapters(new_base, trusted=True).load(tmp_path)


def test_a_folder_without_an_adapter_is_not_found(tmp_path: Path, adapters: serve.Adapters) -> None:
    with pytest.raises(FileNotFoundError):
        adapters.load(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(FileNotFoundError, match=r"no adapter_model\.safetensors"):
        adapters.load(tmp_path)


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"peft_type": "IA3"}, "peft_type must be LORA, got 'IA3'"),
    "biases": ({"bias": "all"}, "bias must be none"),
    "another base": ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' changes the base"),
    "an import": ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "megatron_config=.* is not supported"),
    "repeated layers": ({"layer_replication": [[0, 1], [0, 1]]}, "layer_replication=.* is not supported"),
    "what is not known": ({"of_the_future": True}, "of_the_future=True is not supported"),
    "alpha": ({"lora_alpha": "8"}, "lora_alpha must be a number"),
    "a pattern": ({"alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern must have numbers by names"),
    "layers": ({"modules_to_save": "head"}, "modules_to_save must be names"),
    "a flag": ({"use_dora": "yes"}, "are true or false"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_cannot_be_done_are_refused(tmp_path: Path, adapters: serve.Adapters, name: str) -> None:
    saved(tmp_path, 1)
    options, message = OPTIONS[name]
    change_config(tmp_path, **options)
    with pytest.raises(InvalidModelFileError, match=f"adapter_config.json: .*{message}"):
        adapters.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"a": "' + "x" * 2**20 + '"}', "\xff"])
def test_a_config_that_is_none_is_refused(tmp_path: Path, adapters: serve.Adapters, text: str) -> None:
    (tmp_path / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidModelFileError, match="JSON"):
        adapters.load(tmp_path)


def test_patterns_of_a_file_are_not_tried_on_names(tmp_path: Path, adapters: serve.Adapters) -> None:
    """They could take for ever. The names of the weights say which modules are meant."""
    wanted = saved(tmp_path, 1)
    change_config(tmp_path, target_modules="((a+)+)+$", rank_pattern={"((e+)+)+$": 1}, layers_to_transform=[77])
    assert_same(adapters.load(tmp_path), wanted)


WEIGHTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "no such module": (lambda w: w.update({"other.lora_A.weight": torch.ones(8, 16)}), "the base, which has no other"),
    "another width": (
        lambda w: w.update({"middle.lora_A.weight": torch.ones(8, 17)}),
        r"middle.lora_A.weight is float32\[8, 17\], not float32\[8, 16\]",
    ),
    "too high a rank": (lambda w: w.update({"middle.lora_A.weight": torch.ones(17, 1)}), "rank 17 for middle"),
    "a half": (lambda w: w.pop("middle.lora_B.weight"), "middle.lora_B.weight is missing"),
    "weights of the base": (lambda w: w.update({"conv.weight": torch.ones(1)}), "conv.weight is not expected"),
    "nothing": (lambda w: w.clear(), "has no weights of a LoRA"),
    "attention": (
        lambda w: w.update({"encoder.self_attn.out_proj.lora_A.weight": torch.ones(8, 16)}),
        "MultiheadAttention does not call the layers",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_do_not_fit_the_base_are_refused(tmp_path: Path, adapters: serve.Adapters, name: str) -> None:
    saved(tmp_path, 1)
    change, message = WEIGHTS[name]
    path = tmp_path / "adapter_model.safetensors"
    weights = {key.removeprefix("base_model.model."): tensor for key, tensor in load_file(path).items()}
    change(weights)
    save_file({f"base_model.model.{key}": tensor for key, tensor in weights.items()}, path)
    with pytest.raises(InvalidModelFileError, match=message):
        adapters.load(tmp_path)


# The base


def test_the_base_is_loaded_once_whoever_needs_it_first(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    loads: list[Base] = []

    def load_base() -> Base:
        loads.append(new_base())
        return loads[-1]

    adapters = serve.Adapters(load_base)
    assert not loads
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(adapters.load, [tmp_path] * 4))
    assert len(loads) == 1
    assert adapters.base() is loads[0]


def test_a_base_whose_load_failed_is_loaded_again(tmp_path: Path) -> None:
    errors: list[Exception] = [OSError("not yet")]

    def load_base() -> Base:
        if errors:
            raise errors.pop()
        return new_base()

    adapters = serve.Adapters(load_base)
    with pytest.raises(OSError, match="not yet"):
        adapters.base()
    assert isinstance(adapters.base(), Base)


class WithEnd(nn.Linear):
    def __del__(self) -> None: ...


@pytest.mark.parametrize(
    ("load_base", "message"), [(lambda: "text", "answers a torch module, got str"), (lambda: WithEnd(2, 2), "__del__")]
)
def test_what_cannot_be_a_base_is_refused(load_base: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        serve.Adapters(load_base).base()


def test_they_travel_by_their_arguments() -> None:
    adapters = cloudpickle.loads(cloudpickle.dumps(serve.Adapters(new_base, trusted=True)))
    assert adapters._trusted
    assert isinstance(adapters.base(), nn.Module)
