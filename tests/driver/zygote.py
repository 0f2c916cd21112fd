"""Drivers that start within milliseconds: forks of a process that has loaded all their modules.

The driver's command runs in each fork as it would by itself. Every fault point that it reaches is written down, so that a
test can ask how often each is reached.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

ROOT = Path(__file__).resolve().parents[2]


class Process:
    """One driver."""

    def __init__(self, home: Zygote, pid: int) -> None:
        self._home, self.pid, self._code = home, pid, None

    def poll(self) -> int | None:
        """Return its exit code, negative where a signal ended it; None while it runs."""
        if self._code is None:
            self._code = self._home.ask({"wait": self.pid})
        return self._code

    def wait(self, timeout_s: float) -> int:
        until = time.monotonic() + timeout_s
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise TimeoutError(f"driver {self.pid} still runs after {timeout_s:g} s")
            time.sleep(0.005)
        return code

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Zygote:
    """The process that forks; use it as a context manager."""

    def __enter__(self) -> Self:
        argv = [sys.executable, "-m", "tests.driver.zygote"]
        pipe = subprocess.PIPE
        handlers = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
        self._process = subprocess.Popen(argv, cwd=ROOT, env=handlers, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        return self

    def __exit__(self, *_: object) -> None:
        """Its drivers end with it."""
        self._process.communicate(timeout=30)

    def ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, reached: Path) -> Process:
        """Run the driver's command; it appends to a log, and to a file the fault points that it reaches."""
        request = {"argv": list(arguments), "env": dict(environment), "log": str(log), "reached": str(reached)}
        return Process(self, self.ask(request))


def _serve() -> None:
    from dra_driver import cli  # noqa: F401  loaded before the forks, and not by who imports this module

    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            running.discard(pid)
            print(os.waitstatus_to_exitcode(status) if pid else "null", flush=True)
        else:
            pid = os.fork() or _run(request)
            running.add(pid)
            print(pid, flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _run(request: Mapping[str, Any]) -> NoReturn:
    """Be the driver."""
    code = 70
    try:
        from dra_driver import cli, faultpoint

        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(request["env"])
        book, reach = os.open(request["reached"], os.O_WRONLY | os.O_APPEND | os.O_CREAT), faultpoint.reach

        def noted(point: str) -> None:
            os.write(book, f"{point}\n".encode())
            reach(point)

        faultpoint.reach = noted
        cli.main(request["argv"], standalone_mode=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    os._exit(code)


if __name__ == "__main__":
    _serve()
