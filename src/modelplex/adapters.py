"""Adapters: many small sets of weights (LoRA) over one large base model, which a replica has once."""

import collections
import copy
import json
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.weights import Kinds, mapped_tensors

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"

CONFIG_BYTES_MAX = 2**20

# Names that an error lists.
SHOWN = 5

# Options of a LoRA that its answers depend on and that are done as it says.
_DONE = ("fan_in_fan_out", "lora_bias", "use_dora", "use_rslora")

# Those that say how weights were trained or chosen, and those that the weights say better themselves.
_WITHOUT_EFFECT = frozenset(
    {"alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "eva_config"}
    | {"exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform"}
    | {"loftq_config", "lora_alpha", "lora_dropout", "megatron_core", "modules_to_save", "peft_type"}
    | {"peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules"}
    | {"task_type"}
)

# Ways to begin a training that leave the base as it was. With the others, weights belong to another base.
_PLAIN_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")

_PREFIX = "base_model.model."
_WEIGHT = re.compile(r"(?P<module>.+)\.lora_(?P<kind>A|B|embedding_A|embedding_B|magnitude_vector)(\.weight|\.bias)?")
_PLAIN_NAME = re.compile(r"\^?[\w.-]+")


class Adapters:
    """One base model, and any number of models that are this base with a LoRA adapter of their own.

    Each loaded adapter is a module like the base, with layers of its own round the base's weights: it has no state in
    common with the others. So calls of different adapters, or of one, may run side by side in any number of threads,
    and all that an adapter takes is freed with its last reference.

    Args:
        load_base: answers the base, a torch module; called once, when the first adapter is loaded.
        trusted: whether adapters whose weights are pickled (`adapter_model.bin`) are loaded. Even then no code in them
            is run.
    """

    def __init__(self, load_base: "Callable[[], torch.nn.Module]", *, trusted: bool = False) -> None:
        if not callable(load_base):
            raise TypeError(f"load_base is a function that answers a torch module, got {load_base!r}.")
        self._load_base = load_base
        self._trusted = trusted
        self._base: torch.nn.Module | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:  # what travels with a deployment begins anew there
        return _adapters, (self._load_base, self._trusted)

    def base(self) -> "torch.nn.Module":
        """The base itself, loaded if it is not yet: in evaluation mode, without gradients. Nobody may change it."""
        with self._lock:
            if self._base is None:
                self._base = _checked_base(self._load_base()).eval().requires_grad_(False)
            return self._base

    def load(self, path: str | Path) -> "torch.nn.Module":
        """The base with the adapter of a folder, as PEFT saves it (`adapter_config.json`, `adapter_model.safetensors`).

        It blocks, so `async def` code calls it by `asyncio.to_thread`; plain `def` loaders run in threads anyway. Any
        number of threads may call it at a time. The answer is of the base's class; its `nbytes` are those of the
        adapter alone, which is what it counts in a cache of models.

        Raises:
            InvalidModelFileError: it is no LoRA adapter, it has options that are not supported, or modules or shapes
                that the base does not have.
            UnsafeModelFileError: its weights are pickled, and `trusted` is not set.
            FileNotFoundError: there is no such folder, or no adapter in it.
        """
        import torch

        path = path if isinstance(path, Path) else Path(path)  # that one object may keep the folder where it is
        options = _read_config(path / CONFIG)
        weights = self._weights_file(path)
        base = self.base()
        with torch.inference_mode(False), torch.no_grad(), mapped_tensors(weights) as found:
            named = {name.removeprefix(_PREFIX): tensor for name, tensor in found.items()}
            model = _adapted(base, path, options, named)
        own = {id(tensor) for tensor in _tensors_of(base)}
        model.nbytes = sum(t.nbytes for t in _tensors_of(model) if id(t) not in own)  # type: ignore[assignment]
        return model

    def _weights_file(self, path: Path) -> Path:
        if (path / WEIGHTS).exists():
            return path / WEIGHTS
        if not (path / PICKLED).exists():
            raise FileNotFoundError(f"There is no {WEIGHTS} in {path}.")
        if not self._trusted:
            raise UnsafeModelFileError(
                f"{path / PICKLED} is a pickle, which may run any code when it is loaded. Save the adapter as "
                "safetensors, or trust who can write it: Adapters(…, trusted=True)."
            )
        return path / PICKLED


def _adapters(load_base: "Callable[[], torch.nn.Module]", trusted: bool) -> Adapters:
    return Adapters(load_base, trusted=trusted)


def _checked_base(base: Any) -> "torch.nn.Module":
    import torch

    if not isinstance(base, torch.nn.Module):
        raise TypeError(f"load_base of Adapters answers a torch module, got {type(base).__name__}.")
    if hasattr(type(base), "__del__"):
        raise TypeError(f"{type(base).__name__} has a __del__, which would run for each adapter.")
    return base


def _tensors_of(module: "torch.nn.Module") -> "list[torch.Tensor]":
    return [*module.parameters(), *module.buffers()]


# Options


def _read_config(path: Path) -> dict[str, Any]:
    """The options of a LoRA. Raises `InvalidModelFileError` if with these weights alone its answers would be others."""
    with path.open("rb") as file:
        text = file.read(CONFIG_BYTES_MAX + 1)
    try:
        options = json.loads(text) if len(text) <= CONFIG_BYTES_MAX else None
    except (ValueError, RecursionError) as error:
        raise InvalidModelFileError(f"{path} is no JSON: {error}") from error
    if not isinstance(options, dict):
        raise InvalidModelFileError(f"{path} is no JSON object of at most {CONFIG_BYTES_MAX} bytes.")
    if options.get("peft_type") != "LORA":
        raise InvalidModelFileError(f"{path}: peft_type must be LORA, got {options.get('peft_type')!r}.")
    if options.get("bias", "none") != "none":
        raise InvalidModelFileError(f"{path}: bias must be none: others change the base, which all adapters share.")
    if options.get("init_lora_weights", True) not in _PLAIN_BEGINNINGS:
        raise InvalidModelFileError(
            f"{path}: init_lora_weights={options['init_lora_weights']!r} changes the base, which all adapters share. "
            "Save it as a plain LoRA: save_pretrained(…, path_initial_model_for_weight_conversion=…)."
        )
    for name, value in options.items():
        if value and name not in _WITHOUT_EFFECT and name not in _DONE:
            raise InvalidModelFileError(f"{path}: the option {name}={value!r} is not supported.")
    return _checked(path, options)


def _checked(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The options that are used, with their types."""
    alphas = options.get("alpha_pattern") or {}
    saved = options.get("modules_to_save") or []
    flags = {name: options.get(name) or False for name in _DONE}
    if not all(isinstance(value, bool) for value in flags.values()):
        raise InvalidModelFileError(f"{path}: {', '.join(_DONE)} are true or false.")
    if not isinstance(alphas, dict) or not all(_is_number(v) and _PLAIN_NAME.fullmatch(k) for k, v in alphas.items()):
        raise InvalidModelFileError(f"{path}: alpha_pattern must have numbers by names of modules, got {alphas!r}.")
    if not isinstance(saved, list) or not all(isinstance(n, str) and _PLAIN_NAME.fullmatch(n) for n in saved):
        raise InvalidModelFileError(f"{path}: modules_to_save must be names of modules, got {saved!r}.")
    if not _is_number(alpha := options.get("lora_alpha", 8)):
        raise InvalidModelFileError(f"{path}: lora_alpha must be a number, got {alpha!r}.")
    return {**flags, "alpha_pattern": alphas, "modules_to_save": saved, "lora_alpha": alpha}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# The model


def _adapted(
    base: "torch.nn.Module", path: Path, options: dict[str, Any], weights: "Mapping[str, torch.Tensor]"
) -> "torch.nn.Module":
    """A module with the base's weights, round which are these."""
    import peft

    ranks = _ranks(base, path, weights)
    common = collections.Counter(ranks.values()).most_common(1)[0][0]
    alphas = {name: _alpha(options, name) for name in ranks}
    config = peft.LoraConfig(
        **{name: options[name] for name in _DONE},
        r=common,
        lora_alpha=options["lora_alpha"],
        # By their whole names: what patterns a file has is not tried on anything.
        target_modules="|".join(map(re.escape, ranks)),
        rank_pattern={_exactly(name): rank for name, rank in ranks.items() if rank != common},
        alpha_pattern={_exactly(name): alpha for name, alpha in alphas.items() if alpha != options["lora_alpha"]},
        modules_to_save=options["modules_to_save"] or None,
        init_lora_weights=False,
        inference_mode=True,
    )
    model = _sharing(base)
    try:
        # Not with low_cpu_mem_usage: it changes how all threads of the process build modules.
        peft.inject_adapter_in_model(config, model)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise InvalidModelFileError(f"{path} does not fit the base: {error}") from error
    _without_fast_path(model)
    wanted = peft.get_peft_model_state_dict(model, model.state_dict(), save_embedding_layers=False)
    Kinds(wanted).check(path, weights, "the base", any_dtype=True)
    result: Any = peft.set_peft_model_state_dict(model, dict(weights))
    if result.unexpected_keys:
        raise InvalidModelFileError(f"{path} has weights that PEFT has no place for: {result.unexpected_keys[:SHOWN]}.")
    return model.eval().requires_grad_(False)


def _ranks(base: "torch.nn.Module", path: Path, weights: "Mapping[str, torch.Tensor]") -> dict[str, int]:
    """The rank of each module that has weights here. Raises `InvalidModelFileError` if the base has no such module."""
    import torch

    modules = dict(base.named_modules())
    ranks: dict[str, int] = {}
    for name, tensor in weights.items():
        if (weight := _WEIGHT.fullmatch(name)) is not None:
            ranks.setdefault(weight["module"], 0)
            if weight["kind"] in ("A", "embedding_A") and tensor.ndim > 1:
                ranks[weight["module"]] = len(tensor)
    if not ranks:
        raise InvalidModelFileError(f"{path} has no weights of a LoRA.")
    if missing := [name for name in ranks if name not in modules]:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise InvalidModelFileError(f"{path} does not fit the base, which has no {', '.join(missing[:SHOWN])}{more}.")
    for name, rank in ranks.items():
        parent = modules[name.rpartition(".")[0]]
        if isinstance(modules[name], torch.nn.MultiheadAttention) or isinstance(parent, torch.nn.MultiheadAttention):
            raise InvalidModelFileError(
                f"{path} adapts {name}: torch's MultiheadAttention does not call the layers that it consists of, so an "
                "adapter would have no effect, or one on all that share the base."
            )
        size = max((max(parameter.shape, default=0) for parameter in modules[name].parameters()), default=0)
        if not 0 < rank <= size:
            raise InvalidModelFileError(f"{path} has rank {rank} for {name}, whose largest side is {size}.")
    return ranks


def _alpha(options: dict[str, Any], module: str) -> float:
    for name, alpha in options["alpha_pattern"].items():
        if module == name.removeprefix("^") or (name[0] != "^" and module.endswith(f".{name}")):
            return float(alpha)
    return float(options["lora_alpha"])


def _exactly(name: str) -> str:
    return f"^{re.escape(name)}"


def _sharing(base: "torch.nn.Module") -> "torch.nn.Module":
    """A copy of all its modules, with the same tensors."""
    import torch

    memo = {id(tensor): tensor for tensor in _tensors_of(base)}
    for module in base.modules():
        memo.update({id(value): value for value in vars(module).values() if isinstance(value, torch.Tensor)})
    return copy.deepcopy(base, memo)


def _without_fast_path(model: "torch.nn.Module") -> None:
    """Torch's encoder layers would compute with the base's weights, past the layers that are round them."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
