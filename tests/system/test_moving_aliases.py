"""An alias moves while clients call it: real processes, and a file of aliases on the disk."""

import json
import os
import threading
from pathlib import Path

import pytest
from served import Served, serving, wait_until

pytestmark = pytest.mark.system


class Aliases:
    """The file, which is replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "aliases.json"

    def write(self, **aliases: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(aliases))
        os.replace(new, self.path)


class Clients:
    """Call the alias all the time, until the end of a block. No call may fail or wait for a load."""

    def __init__(self, served: Served, model_id: str, count: int = 4) -> None:
        self.bodies: list[bytes] = []
        self.wrong: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(served, model_id)) for _ in range(count)]

    def _call(self, served: Served, model_id: str) -> None:
        client = served.client()
        while not self._over.is_set():
            reply = client.call(model_id)
            if reply.status != 200 or reply.start != "warm":
                self.wrong.append(f"{reply.status} {reply.start} {reply.body!r}")
            self.bodies.append(reply.body)
            self._over.wait(0.002)
        client.close()

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_an_alias_moves_under_load_and_back_from_a_broken_version(tmp_path: Path) -> None:
    aliases = Aliases(tmp_path)
    aliases.write(stable="3")
    with serving("versioned:app", ALIASES=str(aliases.path)) as served:
        assert served.call("shop@stable").body == b"shop@stable shop@3"
        assert served.call("shop@3").body == b"shop@3 shop@3"
        assert served.call("shop@none").status == 404
        with Clients(served, "shop@stable") as clients:
            wait_until(lambda: b"shop@stable shop@3" in clients.bodies, "the old version serves")
            aliases.write(stable="4")
            wait_until(lambda: b"shop@stable shop@4" in clients.bodies[-20:], "the new version serves")
            aliases.write(stable="666")
            wait_until(lambda: served.events.count("broken shop@666") >= 2, "the broken version is tried twice")
            aliases.write(stable="5")
            wait_until(lambda: b"shop@stable shop@5" in clients.bodies[-20:], "the next version serves")
            aliases.path.unlink()
            count = len(clients.bodies)
            wait_until(lambda: len(clients.bodies) > count + 300, "they go on without the file")
        assert clients.wrong == []
        assert {body.decode() for body in clients.bodies} == {f"shop@stable shop@{n}" for n in (3, 4, 5)}
        wait_until(lambda: any(event.startswith("end shop@4 ") for event in served.events), "the old one is unloaded")
        assert "'shop@stable' has moved from 'shop@3' to 'shop@4'" in served.log
        assert "'shop@stable' stands for 'shop@666' now, which cannot be loaded: 'shop@4' serves on" in served.log
        assert served.stop() == 0
        loads = sorted(event.split()[1] for event in served.events if event.startswith("load "))
        assert loads == sorted(event.split()[1] for event in served.events if event.startswith("end "))
