"""Files of skops: estimators of scikit-learn, and what is like them, without a pickle."""

from collections.abc import Sequence
from pathlib import Path

from modelplex.errors import UnsafeModelFileError
from modelplex.file_safety import TRUST, zip_members
from modelplex.loaded import Loaded
from modelplex.loaders.files import model_file, needs, reading
from modelplex.loaders.object_bytes import object_bytes


def load(path: Path, *, trusted: bool = False, trusted_types: Sequence[str] = ()) -> Loaded:
    """An estimator.

    Args:
        path: a file, or a folder with one.
        trusted: whether it may have objects of any types.
        trusted_types: types that it may have beside those that skops takes to be harmless, as `my_package.MyScaler`.

    Raises:
        UnsafeModelFileError: it has objects of other types; they are named.
    """
    with needs("sklearn"):
        import skops.io
    file = model_file(path, ".skops", trusted=trusted)
    zip_members(file, trusted=trusted)
    with reading(file, "a file of skops"):
        # `skops.io.load` would ask the same; here, because it has no error of its own for it in all of its versions.
        unknown = skops.io.get_untrusted_types(file=file)
        refused = sorted(set(unknown) - set(trusted_types))
        if refused and not trusted:
            raise UnsafeModelFileError(
                f"'{file.name}' has objects of types that may do anything: {', '.join(refused)}. If you know that they "
                f"do no harm, say trusted_types={refused}. {TRUST}"
            )
        model = skops.io.load(file, trusted=unknown)
    return Loaded(model, object_bytes(model))
