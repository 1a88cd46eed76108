"""The GPUs that this process may use, and how replicas are given theirs."""

import logging
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from modelplex import errors
from modelplex.core.gpus import Gpus

log = logging.getLogger(__name__)

VARIABLE = "CUDA_VISIBLE_DEVICES"

DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
NVIDIA_SMI_TIMEOUT_S = 10.0


def find() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` names if it is set, as it names them; else the numbers of all of this machine's."""
    if (given := os.environ.get(VARIABLE)) is not None:
        return _named(given)
    count = len(list(DRIVER_FOLDER.iterdir())) if DRIVER_FOLDER.is_dir() else _count_by_nvidia_smi()
    return [str(number) for number in range(count)]


def _named(text: str) -> list[str]:
    ids: list[str] = []
    for gpu in (part.strip() for part in text.split(",")):
        if gpu in ("", "-1"):
            break  # as CUDA does it: what follows one that is none does not count
        ids.append(gpu)
    return list(dict.fromkeys(ids))


def _count_by_nvidia_smi() -> int:
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"],
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=NVIDIA_SMI_TIMEOUT_S,
        )
    except FileNotFoundError:
        return 0
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("No GPUs are used: nvidia-smi does not say which there are: %s", error)
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def variables(num_gpus: float | None, shares: Mapping[str, float]) -> dict[str, str]:
    """What is set for a replica: nothing if it does not say how many it wants; to see none if it wants none."""
    return {} if num_gpus is None else {VARIABLE: ",".join(shares)}


def too_few(replica: str, wanted: float, gpus: Gpus) -> errors.DeploymentFailedError:
    """The error for a replica that cannot have so many, which says who has them."""
    held = [f"{owner} has {_said(shares)}" for owner, shares in sorted(gpus.holders.items())]
    text = f"{replica} wants num_gpus={wanted:g}, and of the {len(gpus.ids)} GPUs that there are not so many are free: "
    text += "; ".join(held) + "." if held else "nobody has any."
    deployment = replica.partition("#")[0]
    if any(owner.partition("#")[0] == deployment for owner in gpus.holders):
        text += (
            " If those of the same deployment are to be replaced, max_surge_percent=0 has them end before their "
            "successors start."
        )
    return errors.DeploymentFailedError(text)


def _said(shares: Mapping[str, float]) -> str:
    said: Iterable[str] = (gpu if share >= 1 else f"{share:g} of {gpu}" for gpu, share in shares.items())
    return ", ".join(said)
