"""Options of logs: of one deployment, of an application, as JSON, in a folder of one's own, without the access log."""

import json
import logging
import tempfile
import time
from pathlib import Path

import requests

from modelplex import serve
from modelplex.serve.schema import LoggingConfig

logger = logging.getLogger("ray.serve")
logs = Path(tempfile.mkdtemp())


def lines(folder: Path, wanted: str) -> list[str]:
    """All lines of a folder's logs, once one has what is wanted."""
    deadline = time.time() + 5
    while True:
        found = [line for file in folder.rglob("*.log") for line in file.read_text().splitlines()]
        if any(wanted in line for line in found):
            return found
        assert time.time() < deadline, found
        time.sleep(0.05)


@serve.deployment(logging_config=LoggingConfig(encoding="JSON", logs_dir=str(logs / "json"), enable_access_log=False))
class Teller:
    def __call__(self) -> str:
        logger.info("asked for a tale")
        logger.debug("which nobody is told")
        return "once"


serve.run(Teller.bind())
assert requests.get("http://localhost:8000/", headers={"X-Request-ID": "q-1"}).text == "once"
written = lines(logs / "json", "asked for a tale")
line = next(json.loads(line) for line in written if "asked for a tale" in line)
assert (line["request_id"], line["message"]) == ("q-1", "asked for a tale")
assert not [line for line in written if "nobody is told" in line or "__CALL__" in line]


@serve.deployment
class Loud:
    def __init__(self, quiet):
        self.quiet = quiet

    async def __call__(self):
        logger.debug("loud debug")
        return await self.quiet.remote()


@serve.deployment(logging_config={"log_level": "INFO", "logs_dir": str(logs / "app")})
class Quiet:
    def __call__(self):
        logger.debug("quiet debug")
        logger.info("quiet info")
        return "ok"


serve.run(Loud.bind(Quiet.bind()), logging_config={"log_level": "DEBUG", "logs_dir": str(logs / "app")})
assert requests.get("http://localhost:8000/").text == "ok"
lines(logs / "app", "loud debug")
assert not [line for line in lines(logs / "app", "quiet info") if "quiet debug" in line]
