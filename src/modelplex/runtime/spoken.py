"""Which protocols of other systems a deployment speaks by what its class has; found where it is made, without numpy."""

import inspect
from typing import Any

from modelplex.ingress import ingress_of
from modelplex.multiplex import loaders_in

# The Open Inference Protocol.
V2 = "v2"


def protocols_of(func_or_class: Any) -> list[str]:
    """V2 for a class with a method `infer`, one `@serve.multiplexed` method, and nothing else that answers HTTP."""
    if not inspect.isclass(func_or_class):
        return []
    has_other = ingress_of(func_or_class) is not None or any("__call__" in vars(c) for c in func_or_class.__mro__)
    if has_other or not callable(getattr(func_or_class, "infer", None)):
        return []
    methods = [loader for loader in loaders_in(func_or_class) if loader.is_method]
    return [V2] if len(methods) == 1 else []
