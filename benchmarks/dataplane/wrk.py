"""wrk, the load generator: run, and its figures read."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("drive.lua")
TIMEOUT_S = 30  # wrk's own is 2 s, which large bodies may need
_ERRORS = ("connect", "read", "write", "status", "timeout")


@dataclass(frozen=True)
class Outcome:
    """What wrk counted, and quantiles of the latency in milliseconds.

    `errors` counts, by kind, sockets that failed, answers of a status above 399 (`status`), and those that never came.
    """

    requests: int
    duration_s: float
    received_bytes: int
    errors: dict[str, int]
    p50_ms: float
    p99_ms: float
    p999_ms: float

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.duration_s


def parse(output: str) -> Outcome:
    """Read the line that drive.lua prints. Raises ValueError if it is not there, or nothing was answered."""
    line = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    values = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line[1])} if line else {}
    if not values.get("requests"):
        raise ValueError(f"wrk measured nothing: {output}")
    return Outcome(
        requests=values["requests"],
        duration_s=values["duration_us"] / 1e6,
        received_bytes=values["bytes"],
        errors={kind: values[kind] for kind in _ERRORS if values[kind]},
        p50_ms=values["p50_us"] / 1e3,
        p99_ms=values["p99_us"] / 1e3,
        p999_ms=values["p999_us"] / 1e3,
    )


def run(url: str, paths: Sequence[str], connections: int, seconds: int, body: Path | None = None) -> Outcome:
    """Send GET requests, or POST if there is a body, from one thread, the next as soon as one is answered."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_S}s", "-s", str(SCRIPT), url]
    arguments = ["--", "POST" if body else "GET", str(body or ""), *paths]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=seconds + 2 * TIMEOUT_S)
    return parse(done.stdout + done.stderr)
