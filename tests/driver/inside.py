"""What a container must see of the devices that it was given, and nothing more."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tests.driver import live
from tests.hardware import sysfs

Object = dict[str, Any]

CONTROL = {("/dev/nvidiactl", 195, 255), ("/dev/nvidia-uvm", sysfs.UVM, 0), ("/dev/nvidia-uvm-tools", sysfs.UVM, 1)}
EVERYBODYS = (1, 5, 136)
"""Major numbers of the devices of every container: memory, terminals."""
GIVEN = ("", "ENXIO")
"""What opening says where the container may: the machine of a test has no driver for it."""


def check(seen: Object, driver: live.Driver, claim: Object) -> list[str]:
    """Check a container's report against its allocated claim; return the UUIDs in the order of the claim."""
    devices = [one["device"] for one in claim["status"]["allocation"]["devices"]["results"]]
    gpus = {gpu.name: gpu for gpu in driver.machine.gpus}
    made = live.instances(driver)
    mine = {uuid: place for uuid, place in made.items() if uuid in seen["env"]["MUSTER_DEVICES_GPU"].split(",")}
    uuids = [gpus[name].uuid for name in devices] if set(devices) <= set(gpus) else sorted(mine)
    given = {gpus[name].index for name in devices if name in gpus} | {gpu for gpu, _ in mine.values()}
    assert uuids and len(uuids) == len(devices)
    assert seen["env"]["MUSTER_DEVICES_GPU"] == seen["env"]["CUDA_VISIBLE_DEVICES"] == ",".join(uuids)
    assert seen["env"]["NVIDIA_VISIBLE_DEVICES"] == "void"
    expected = CONTROL | {(f"/dev/nvidia{index}", 195, index) for index in given} | set(_capabilities(mine.values()))
    nodes = [one for one in seen["devices"] if one["major"] not in EVERYBODYS]
    assert {(one["path"], one["major"], one["minor"]) for one in nodes} == expected and len(nodes) == len(expected)
    assert [one for one in nodes if one["open"] not in GIVEN] == []
    for one in seen["probes"]:
        assert (one["open"] in GIVEN) == (one["minor"] in given), f"the devices cgroup of the container: {one}"
    _mounts(seen)
    _metadata(seen, claim, devices, uuids)
    return uuids


def _capabilities(places: Iterable[tuple[int, int]]) -> list[tuple[str, int, int]]:
    """Return the two nodes of each GPU instance and its compute instance."""
    minors = [sysfs.capability(*place) + part for place in places for part in (0, 1)]
    return [(f"/dev/nvidia-caps/nvidia-cap{minor}", sysfs.CAPS, minor) for minor in minors]


def _mounts(seen: Object) -> None:
    """The driver's files are there, read-only."""
    mounts = {one["target"]: one["options"].split(",") for one in seen["mounts"]}
    wanted = {f"/{name}" for name in (*sysfs.LIBRARIES, sysfs.PROGRAM, sysfs.SOCKET)}
    assert {one for one in mounts if one.startswith(("/usr/", "/run/nvidia"))} == wanted
    assert all("ro" in mounts[one] for one in wanted)


def _metadata(seen: Object, claim: Object, devices: Sequence[str], uuids: Sequence[str]) -> None:
    """The file of the request (KEP-5304) names the devices and their UUIDs, in order."""
    folder = f"/var/run/kubernetes.io/dra-device-attributes/resourceclaims/{claim['metadata']['name']}"
    path = f"{folder}/gpu/{live.DRIVER}-metadata.json"
    assert list(seen["metadata"]) == [path]
    told = json.loads(seen["metadata"][path])
    assert told["metadata"]["uid"] == claim["metadata"]["uid"]
    (request,) = told["requests"]
    assert [one["name"] for one in request["devices"]] == list(devices)
    assert [one["attributes"]["uuid"]["string"] for one in request["devices"]] == list(uuids)
