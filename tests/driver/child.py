"""A driver for one call, in a process of its own that a fault point may kill: ``child.py FOLDER start|prepare|unprepare``."""

import asyncio
import sys
from pathlib import Path

from dra_driver import recovery, state
from tests.driver import host, objects

DEVICES = ("gpu-7-mig-1g10gb-19-6", "gpu-7-mig-2g20gb-14-4")


def claims() -> host.Claims:
    found = host.Claims()
    found.add(objects.claim(1, *DEVICES))
    return found


async def main(root: Path, call: str) -> None:
    machine, api = host.machine(mig_gpus=(7,)), claims()
    own = state.State(host.parts(root, machine, api))
    tidy = recovery.Recovery(own, "boot", lambda reason, message: None)
    if call == "start":
        await tidy.start()
        await tidy.sweep()
        return
    (obj,) = api.objects.values()
    reference = api.add(obj)
    if call == "prepare":
        await own.prepare(reference, await own.wanted(reference))
    else:
        await own.unprepare(reference.uid)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
