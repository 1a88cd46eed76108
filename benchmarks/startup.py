"""How long a user waits: for the import, and from the start of `modelplex run` to the first answer.

    python benchmarks/startup.py [--runs 7]

Prints minimum, median and maximum in seconds of wall time. The application is the smallest multiplexed one.
"""

import argparse
import http.client
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = """
from modelplex import serve

@serve.deployment
class Model:
    @serve.multiplexed
    async def get_model(self, model_id):
        return model_id

    async def __call__(self, request):
        return await self.get_model(serve.get_multiplexed_model_id())

app = Model.bind()
"""
TIMEOUT_S = 30.0


def import_s() -> float:
    """The import's own time: a process that imports, less one that does not."""

    def run(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - began

    return run("import modelplex.serve") - run("pass")


def first_answer_s(folder: Path) -> float:
    """From the start of the command to the last byte of the first answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "modelplex.cli", "run", "program:app", "--port", str(port)]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while time.perf_counter() - began < TIMEOUT_S:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            try:
                connection.request("GET", "/", headers={"serve_multiplexed_model_id": "a"})
                assert connection.getresponse().read() == b"a"
            except ConnectionRefusedError:
                time.sleep(0.002)
            else:
                return time.perf_counter() - began
            finally:
                connection.close()
        raise TimeoutError(f"no answer within {TIMEOUT_S} s")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "program.py").write_text(PROGRAM)
        first_answer_s(Path(name))  # writes the bytecode, as an installation does
        for what, measure in (
            ("import modelplex.serve", import_s),
            ("first answer", lambda: first_answer_s(Path(name))),
        ):
            times = sorted(measure() for _ in range(runs))
            print(f"{what:24} min {times[0]:.3f}  median {statistics.median(times):.3f}  max {times[-1]:.3f} s")


if __name__ == "__main__":
    main()
