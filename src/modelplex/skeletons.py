"""Models of one architecture: the next one's weights are copied into the module of one that has gone."""

import collections
import functools
import gc
import itertools
import logging
import operator
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelplex.errors import InvalidModelFileError
from modelplex.weights import Kinds, mapped_tensors

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# A module whose user has gone may be held for a moment longer: by a frame that ends, by another thread's last step. One
# that is still held then is given up.
HELD_S = 5.0

# Which memory belongs to which tensor of a skeleton that lives: no two of them may have the same.
_memory: "weakref.WeakValueDictionary[int, torch.Tensor]" = weakref.WeakValueDictionary()
_memory_lock = threading.Lock()


class SkeletonPool:
    """Modules of one architecture that get one model's weights after the other's.

    A switch copies weights; nothing is constructed. Nobody ever gets a module that somebody still uses: one that is
    held, whole or in part, is given up, and the next model gets one that is built for it.

    Args:
        factory: builds a module, with any weights, on the device that models are to be on. It keeps no reference to it,
            and all of its modules have their own weights. It may run in several threads at a time.
        free_max: modules without a user that are kept, at least 1. They take memory besides that of the loaded models.

    Attributes:
        built: modules that the factory has built.
        reused: loads that took none.
    """

    def __init__(self, factory: "Callable[[], torch.nn.Module]", *, free_max: int = 2) -> None:
        if not callable(factory):
            raise TypeError(f"factory is a function that builds a torch module, got {factory!r}.")
        if isinstance(free_max, bool) or not isinstance(free_max, int) or free_max < 1:
            raise ValueError(f"free_max is a number of modules, at least 1, got {free_max!r}.")
        self.built = 0
        self.reused = 0
        self._factory = factory
        self._free: collections.deque[_Skeleton] = collections.deque(maxlen=free_max)
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:  # a pool that travels with its deployment begins anew there
        return functools.partial(SkeletonPool, free_max=self._free.maxlen or 1), (self._factory,)

    def load(self, path: str | Path) -> "torch.nn.Module":
        """The model whose weights are in a file: safetensors, or a state dict that `torch.save` wrote.

        It blocks, so `async def` code calls it by `asyncio.to_thread`; plain `def` loaders run in threads anyway. Any
        number of threads may call it at a time. The answer is in evaluation mode, without gradients.

        Raises:
            InvalidModelFileError: names, shapes or dtypes differ from the module's, or the file is damaged.
            UnsafeModelFileError: the file has pickled code.
            FileNotFoundError: there is no such file.
            TypeError: what the factory builds cannot be used again.
        """
        import torch

        path = path if isinstance(path, Path) else Path(path)  # that one object may keep the file where it is
        with torch.inference_mode(False), torch.no_grad(), mapped_tensors(path) as found:
            skeleton = self._take()
            try:
                sources = skeleton.sources(path, found)
            except BaseException:
                self._free.append(skeleton)  # nothing is copied yet
                raise
            for target, source in sources:  # if this fails, the skeleton goes with its last reference, which is here
                target.copy_(source)
        return skeleton.lend(self._free)

    def _take(self) -> "_Skeleton":
        """A skeleton that nobody uses, from now on the caller's."""
        for _ in range(len(self._free)):
            try:
                skeleton = self._free.popleft()
            except IndexError:  # other threads have been quicker
                break
            if skeleton.is_held():
                if time.monotonic() - skeleton.free_since < HELD_S:
                    self._free.append(skeleton)
                    continue
            elif skeleton.renew():
                with self._lock:
                    self.reused += 1
                return skeleton
            log.warning("A module is built anew, since %s.", skeleton.why)
        skeleton = _Skeleton(self._factory)
        with self._lock:
            self.built += 1
        return skeleton


class _Skeleton:
    """A module, and all that is known of it as it was built.

    Attributes:
        free_since: when its last user went, as time.monotonic says.
        why: what keeps it from being used again.
    """

    def __init__(self, factory: "Callable[[], torch.nn.Module]") -> None:
        self.free_since = 0.0
        self.why = ""
        self._module = factory()
        _check_module(self._module)
        self._state = _state_of(self._module)
        self._module.eval().requires_grad_(False)
        parts = _parts_of(self._module, list(self._state.values()))
        self._kinds = Kinds(self._state)
        by_tensor: dict[int, list[str]] = {}
        for name, tensor in self._state.items():
            by_tensor.setdefault(id(tensor), []).append(name)
        self._names = list(by_tensor.values())
        tensors = [part for part in parts if _is_tensor(part)]
        self._tensors = [(tensor, _layout(tensor)) for tensor in tensors]
        self._others = [(tensor, tensor.clone()) for tensor in tensors if id(tensor) not in by_tensor]
        self._containers = [part for part in parts if isinstance(part, dict | list | set)]
        self._contents = [_plain_copy(container) for container in self._containers]
        self._held = _leading_to_tensors(parts)
        self._held_ids = {id(part) for part in self._held}
        storages = {storage._cdata: storage for storage in (tensor.untyped_storage() for tensor in tensors)}
        self._storages = list(storages.values())
        del parts, tensor, tensors, storages  # only the references of the module and of `self` are to be counted
        self._references = self._count()

    def sources(self, path: Path, found: "dict[str, torch.Tensor]") -> "list[tuple[torch.Tensor, torch.Tensor]]":
        """Each of its tensors with that of the file which belongs into it. Raises `InvalidModelFileError`."""
        # Of the names of one tensor (tied weights), a file may have any.
        given = [[name for name in names if name in found] or names[:1] for names in self._names]
        wanted = self._kinds
        if sum(map(len, given)) < len(wanted):
            wanted = Kinds({name: self._state[name] for names in given for name in names})
        wanted.check(path, found, f"the {type(self._module).__name__} that it is for")
        for first, *others in given:
            for name in others:
                if not _is_equal(found[first], found[name]):
                    raise InvalidModelFileError(
                        f"{path}: {first} and {name} differ, which are one tensor in the module."
                    )
        return [(self._state[names[0]], found[names[0]]) for names in given]

    def lend(self, free: "collections.deque[_Skeleton]") -> "torch.nn.Module":
        """The module as a user gets it: an object of its own round the same parts, with whose end the use ends."""
        cls = type(self._module)
        lent: torch.nn.Module = object.__new__(cls)
        vars(lent).update(vars(self._module), _modelplex_lease=_Lease(self, free))
        return lent

    def is_held(self) -> bool:
        """Whether anybody has a reference to any part of it."""
        now = self._count()
        if any(map(operator.gt, now, self._references)):
            more = [index for index, count in enumerate(now) if count > self._references[index]]
            kinds = {type(self._held[i]).__name__ if i < len(self._held) else "memory of a tensor" for i in more}
            self.why = f"something still holds parts of the last model ({', '.join(sorted(kinds))})"
            return True
        self._references = list(map(min, now, self._references))
        return False

    def _count(self) -> list[int]:
        import torch

        references = list(map(sys.getrefcount, self._held))
        return references + [torch._C._storage_Use_Count(storage._cdata) for storage in self._storages]

    def renew(self) -> bool:
        """Make it as it was built, but for its weights. False if that cannot be; nobody may hold any of it."""
        try:
            try:
                changed = list(map(operator.ne, self._containers, self._contents))
            except Exception:  # noqa: BLE001 - objects of users, or tensors, compared since they are not the same
                changed = list(map(_differs, self._containers, self._contents))
            for container, content in itertools.compress(zip(self._containers, self._contents, strict=True), changed):
                if not self._restore(container, content):
                    self.why = "the last model's structure was changed"
                    return False
            for tensor, layout in self._tensors:
                if _layout(tensor) != layout:
                    self.why = "tensors of the last model were moved, converted or resized"
                    return False
                if tensor.requires_grad or tensor.grad is not None:
                    tensor.requires_grad_(False)
                    tensor.grad = None
            for tensor, as_built in self._others:
                tensor.copy_(as_built)
        except Exception as error:  # noqa: BLE001 - whatever a user has made of it, there is another way
            self.why = f"the last model could not be reset: {error!r}"
            return False
        return True

    def _restore(self, container: Any, content: Any) -> bool:
        def parts_in(values: Any) -> collections.Counter[int]:
            items = values.values() if isinstance(values, dict) else values
            return collections.Counter(id(item) for item in items if id(item) in self._held_ids)

        if parts_in(container) != parts_in(content):
            return False
        container.clear()
        container.extend(content) if isinstance(container, list) else container.update(content)
        return True


class _Lease:
    """An attribute of a lent module: with it, the use of a skeleton ends.

    Nothing outside has a reference to a skeleton in use. One that refers to its user (by a hook that the user has
    added, say) comes here from Python's collection of cycles, once, and is then found to be held.
    """

    def __init__(self, skeleton: _Skeleton, free: "collections.deque[_Skeleton]") -> None:
        self._skeleton = skeleton
        self._free = free

    def __del__(self) -> None:
        # In any thread, at any instruction, so no lock may be taken. A deque that is full drops its oldest.
        self._skeleton.free_since = time.monotonic()
        self._free.append(self._skeleton)

    def __reduce__(self) -> Any:  # a deep copy and a pickle of a lent module are modules of their own
        return _nothing, ()


def _nothing() -> None:
    return None


# What a module is made of


def _check_module(module: Any) -> None:
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"The factory of a SkeletonPool builds torch modules, got {type(module).__name__}.")
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("A SkeletonPool cannot use scripted modules again; its factory has to build plain ones.")
    if hasattr(type(module), "__del__"):
        raise TypeError(f"{type(module).__name__} has a __del__, which would run while its parts are used again.")


def _state_of(module: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """Its parameters and persistent buffers by all their names. Raises TypeError if others have to do with them."""
    import torch

    state = module.state_dict(keep_vars=True)
    own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    for name, tensor in state.items():
        if id(tensor) not in own:
            raise TypeError(f"The module's state has {name}, which is none of its parameters and buffers.")
        if torch.nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise TypeError(f"{name} of the module has no memory yet; the factory has to give it shape and device.")
    with _memory_lock:
        found = {tensor.untyped_storage().data_ptr(): (name, tensor) for name, tensor in state.items()}
        found.pop(0, None)
        for pointer, (name, _) in found.items():
            if pointer in _memory:
                raise TypeError(
                    f"{name} is that of another module as well: the factory has to build all anew each time."
                )
        _memory.update({pointer: tensor for pointer, (_, tensor) in found.items()})
    return state


def _parts_of(module: "torch.nn.Module", state: "list[torch.Tensor]") -> list[Any]:
    """All that the module alone has: modules, their tensors, and what is held by nothing but these.

    What is shared with others, as a configuration may be, is left out: its references come and go with others.
    """
    parts: dict[int, Any] = {}
    references: collections.Counter[int] = collections.Counter()
    waiting: dict[int, Any] = {}
    todo: list[Any] = [*state]
    for part in module.modules():
        own = vars(part)
        todo += [part, own, own["_modules"], own["_parameters"], own["_buffers"]]
    parts.update((id(part), part) for part in todo)
    while todo:
        found = [item for item in gc.get_referents(todo.pop()) if id(item) not in parts and _may_have_parts(item)]
        ids = list(map(id, found))
        references.update(ids)
        waiting.update(zip(ids, found, strict=True))
        del found
        for key in set(ids):
            # Two references are those of this table and of the call.
            if sys.getrefcount(waiting[key]) - 2 == references[key]:
                parts[key] = waiting.pop(key)
                todo.append(parts[key])
    return list(parts.values())


def _may_have_parts(item: Any) -> bool:
    if isinstance(item, dict | list | set) or _is_tensor(item):
        return True
    return gc.is_tracked(item) and not isinstance(item, type | types.ModuleType)


def _leading_to_tensors(parts: list[Any]) -> list[Any]:
    """Those by which one gets to a module or a tensor."""
    import torch

    known = {id(part) for part in parts}
    holders: dict[int, list[Any]] = {}
    for part in parts:
        for item in gc.get_referents(part):
            if id(item) in known:
                holders.setdefault(id(item), []).append(part)
    todo = [part for part in parts if isinstance(part, torch.nn.Module | torch.Tensor)]
    found = {id(part): part for part in todo}
    while todo:
        for holder in holders.get(id(todo.pop()), ()):
            if id(holder) not in found:
                found[id(holder)] = holder
                todo.append(holder)
    return list(found.values())


def _is_tensor(item: Any) -> bool:
    import torch

    return isinstance(item, torch.Tensor)


def _layout(tensor: "torch.Tensor") -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _is_equal(one: "torch.Tensor", other: "torch.Tensor") -> bool:
    import torch

    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)


def _plain_copy(container: Any) -> Any:
    return next(kind(container) for kind in (dict, list, set) if isinstance(container, kind))


def _differs(container: Any, content: Any) -> bool:
    try:
        return bool(container != content)
    except Exception:  # noqa: BLE001 - as above
        return True
