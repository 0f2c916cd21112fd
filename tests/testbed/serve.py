"""The process that holds a named cluster: starts everything, keeps the state file true, and ends it all at SIGTERM."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass

import psutil

from scheduler.apiserver import client
from tests.testbed import cluster as clusters
from tests.testbed import home as homes
from tests.testbed import kwok
from tests.testbed.controllers import jobset, kueue, lws
from tests.testbed.fleet import create, presets

CONTROLLERS = {"jobset": jobset.start, "kueue": kueue.start, "lws": lws.start}
STARTING, READY, FAILED = "starting", "ready", "failed"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `up` was asked for."""

    name: str
    version: str
    real_nodes: int
    fleet: str
    controllers: tuple[str, ...]


class Served:
    """One cluster from its start to its end."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted, self.home = wanted, homes.Home(wanted.name)
        self.began, self.lines, self.phase = time.monotonic(), list[str](), STARTING
        self.cluster: clusters.Cluster | None = None
        self.asked_to_end = threading.Event()

    def tell(self, text: str) -> None:
        """Add a line to what `up` shows."""
        self.lines.append(f"{time.monotonic() - self.began:6.1f} s  {text}")
        self.write()

    def write(self) -> None:
        me = psutil.Process()
        state = {"pid": me.pid, "born": me.create_time(), "phase": self.phase, "lines": self.lines}
        described = self.cluster.describe() if self.cluster else {}
        self.home.write(described | state | {"fleet": self.wanted.fleet, "controllers": list(self.wanted.controllers)})

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        try:
            self.start()
            self.phase = READY
            self.tell("ready")
            self.hold()
        except _AskedToEnd:
            pass
        except Exception as error:
            self.phase = FAILED
            self.tell(f"failed: {error}")
            raise
        finally:
            if self.cluster:
                self.cluster.close()
            shutil.rmtree(self.home.folder, ignore_errors=True)
            if self.phase != FAILED:  # a failure's state and log stay, so that they can be read
                self.home.forget()
        return 0

    def start(self) -> None:
        self.write()
        shutil.rmtree(self.home.folder, ignore_errors=True)
        options = clusters.Options(version=self.wanted.version, real_nodes=self.wanted.real_nodes)
        self.cluster = clusters.Cluster(options, self.home.folder, self.tell)
        self.cluster.start()
        if self.wanted.fleet:
            kwok.start(self.cluster)
            asyncio.run(self._fleet())
        for name in self.wanted.controllers:
            CONTROLLERS[name](self.cluster)
            self.tell(f"{name} ready")

    async def _fleet(self) -> None:
        assert self.cluster is not None
        fleet = presets.read(self.wanted.fleet)
        async with await client.Client.connect(self.cluster.kubeconfig) as api:
            await create.create(api, fleet, self.cluster.kubernetes.minor)
        self.tell(f"{len(fleet)} simulated nodes ready")

    def hold(self) -> None:
        """Wait for the end; a part that dies is told in the state."""
        assert self.cluster is not None
        told: set[str] = set()
        while not self.asked_to_end.wait(1.0):
            for part in self.cluster.parts.dead():
                if part.name not in told:
                    told.add(part.name)
                    self.tell(f"{part.name} ended with code {part.popen.returncode}; see its log")

    def _end(self, number: int, frame: object) -> None:
        if self.phase == READY:
            self.asked_to_end.set()
        elif not self.asked_to_end.is_set():
            self.asked_to_end.set()
            raise _AskedToEnd


class _AskedToEnd(BaseException):
    """SIGTERM while the cluster was being started."""


def spawn(wanted: Wanted) -> int:
    """Start the holding process in a session of its own, so that Ctrl-C in the terminal does not reach it."""
    log = homes.Home(wanted.name).log
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    arguments = [wanted.name, wanted.version, str(wanted.real_nodes), wanted.fleet, ",".join(wanted.controllers)]
    argv = [sys.executable, "-m", "tests.testbed.serve", *arguments]
    opened = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    files += [(os.POSIX_SPAWN_OPEN, number, str(log), opened, 0o600) for number in (1,)]
    files += [(os.POSIX_SPAWN_DUP2, 1, 2)]  # type: ignore[list-item]
    return os.posix_spawn(sys.executable, argv, os.environ, file_actions=files, setsid=True)


def main() -> None:
    name, version, nodes, fleet, controllers = sys.argv[1:6]
    chosen = tuple(one for one in controllers.split(",") if one)
    sys.exit(Served(Wanted(name, version, int(nodes), fleet, chosen)).run())


if __name__ == "__main__":
    main()
