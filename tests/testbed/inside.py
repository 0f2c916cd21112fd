"""The first process of a real node's PID namespace: mounts, containerd, kubelet.

It runs by itself (``python inside.py node.json``), so it imports nothing of the project. When it ends, for whatever
reason, the kernel ends every process of the node and drops every mount: nothing has to be cleaned up by name.
containerd and the kubelet are started again when they die, as systemd would do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PAUSE_S = 0.2  # before a program that died is started again


def main() -> None:
    node = json.loads(Path(sys.argv[1]).read_text())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    mounts(node["binds"])
    running = {started.pid: name for name in ("containerd", "kubelet") for started in [start(node, name)]}
    while True:
        pid, code = os.wait()  # also reaps the orphans of the namespace
        if pid in running:
            name = running.pop(pid)
            say(f"{name} ended with status {code}; starting it again")
            time.sleep(PAUSE_S)
            running[start(node, name).pid] = name


def mounts(binds: list[tuple[str, str]]) -> None:
    """Put folders of the node over the machine's, for this mount namespace only."""
    run("mount", "--make-rshared", "/")  # the kubelet passes mounts on into containers
    for source, target in binds:
        Path(source).mkdir(parents=True, exist_ok=True)
        Path(target).mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", source, target)


def start(node: dict[str, Any], name: str) -> subprocess.Popen[bytes]:
    """Start a program; containerd is also waited for and given the images."""
    with Path(node["logs"], f"{name}.log").open("ab") as log:
        started = subprocess.Popen(node[name], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    if name == "containerd":
        for _ in range(300):
            if subprocess.run([*node["ctr"], "version"], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        else:
            sys.exit("containerd did not answer within 30 s")
        run(*node["ctr"], "-n", "k8s.io", "images", "import", "--all-platforms", node["image"])
    say(f"{name} started")
    return started


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(argv)}: {done.stderr.strip()}")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    main()
