"""Python objects as bytes, between processes of one user: code to run, arguments, results, exceptions."""

import io
import pickle
import sys
import traceback
from typing import Any

import cloudpickle

from modelplex.config import load as load_by_path
from modelplex.deployment import Deployment


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles a decorated class or function by its name where it can be imported by it.

    The name leads to the `Deployment` that wraps it, so pickle alone would find "not the same object" and ship the code
    itself with copies of its module's globals.
    """

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type) or callable(obj):
            module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", "")
            found = getattr(sys.modules.get(module or ""), name, None)
            if module != "__main__" and isinstance(found, Deployment) and found.func_or_class is obj:
                return _wrapped, (f"{module}:{name}",)
        return super().reducer_override(obj)


def _wrapped(import_path: str) -> Any:
    return load_by_path(import_path).func_or_class


def dumps(value: Any) -> bytes:
    """Raises what pickling raises, TypeError most often, for what cannot be pickled."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def loads(data: bytes) -> Any:
    return pickle.loads(data)


def dumps_exception(error: BaseException) -> bytes:
    """The exception with its traceback as text, or nothing if it cannot be pickled."""
    text = "".join(traceback.format_exception(error))
    try:
        data = dumps((error, text))
        loads(data)  # many exceptions pickle, and then fail to be made again
    except Exception:  # noqa: BLE001 - a user's class may raise anything here; its message still travels
        return b""
    return data


class RemoteTraceback(Exception):  # noqa: N818 - it is a cause to read, never raised
    """The cause of an exception that was raised in another process: where it came from, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def loads_exception(data: bytes) -> BaseException:
    error, text = loads(data)
    assert isinstance(error, BaseException)
    error.__cause__ = RemoteTraceback(text)
    return error
