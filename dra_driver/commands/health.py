"""The command ``health``: what the driver knows of each GPU, and an operator's word that faults of one are over."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from pathlib import Path
from typing import Any

import click

from dra_driver import checkpoint, known, sockets
from dra_driver import config as settings
from dra_driver.health import clearing, kept, report, taints
from scheduler.model import device, node

LOOK_S = 0.1
"""Between two looks whether the driver took a request."""


def show(config: settings.Config, as_json: bool) -> None:
    """Print the GPUs and their faults, as the running driver wrote them last."""
    machine, requests = _machine(config), clearing.Folder(config.folder / clearing.FOLDER)
    times = taints.Times(config.folder / taints.FILE)
    found = []
    for gpu in report.report(machine, _faults(config), times):
        request = _answered(requests, gpu.uuid)
        cleared = None if request is None else {"asked": _time(request.asked_ns), "taken": request.taken}
        found.append({**dataclasses.asdict(gpu), "cleared": cleared})
    if as_json:
        click.echo(json.dumps({"driver_serves": _serves(config.folder), "gpus": found}, indent=1))
        return
    if not _serves(config.folder):
        click.echo("no driver serves on this node now; this is what it knew last", err=True)
    for one in found:
        click.echo("\n".join(_lines(one)))


def _lines(gpu: dict[str, Any]) -> list[str]:
    lines = [f"{gpu['name']}  {gpu['uuid']}  {gpu['state']}"]
    for fault in gpu["faults"]:
        start, size = fault["memory_slices"] or (0, 0)
        where = f" on memory slices {start} to {start + size - 1}" if size else ""
        what = f"{fault['kind']} {fault['value']}".strip()
        lines.append(f"  {fault['severity']}: {what}{where}, since {fault['since']}: {fault['message']}")
        lines.append(f"    ends with: {fault['ends']}")
    if gpu["cleared"]:
        state = "carried out" if gpu["cleared"]["taken"] else "not carried out yet"
        lines.append(f"  faults cleared by an operator at {gpu['cleared']['asked']}, {state}")
    return lines


def clear(config: settings.Config, named: str, wait_s: float) -> None:
    """Ask the driver to end the faults of a GPU that only events told, and wait until it has."""
    gpu, requests = _gpu(_machine(config), named), clearing.Folder(config.folder / clearing.FOLDER)
    name = f"{gpu.name} ({gpu.uuid})"
    try:
        asked = requests.ask(gpu.uuid)
    except OSError as error:
        raise click.ClickException(
            f"{name}: {error}; run the command where the driver's folder can be written"
        ) from error
    if not _serves(config.folder):
        click.echo(f"{name}: no driver serves on this node now; it ends the faults when it starts")
        return
    taken = _taken(requests, asked, wait_s)
    if taken is None:
        raise click.ClickException(
            f"{name}: the driver did not take {requests.file(gpu.uuid)} within {wait_s:g} s; look at its log, or remove the"
            " file to take the request back: it is carried out whenever the driver can"
        )
    click.echo(
        "\n".join([f"{name}: ended {one}" for one in taken.ended] or [f"{name}: there was no fault to be cleared"])
    )
    for one in taken.stay:
        click.echo(f"{name}: stays, for the driver still sees it: {one}")


def _taken(requests: clearing.Folder, asked: clearing.Request, wait_s: float) -> clearing.Request | None:
    """Return a request as the driver answered it, or one that came later; None where it did not in time."""
    until = time.monotonic() + wait_s
    while True:
        now = _answered(requests, asked.gpu_uuid)
        if now is not None and now.taken and now.asked_ns >= asked.asked_ns:
            return now
        if time.monotonic() > until:
            return None
        time.sleep(LOOK_S)


def _answered(requests: clearing.Folder, gpu_uuid: str) -> clearing.Request | None:
    try:
        return requests.read(gpu_uuid)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{error}; remove the file") from error


def _machine(config: settings.Config) -> node.NodeTopology:
    """Return the node as the driver published it last."""
    path = config.folder / known.FILE
    try:
        found = known.published(config.folder)
    except FileNotFoundError:
        found = None
    except (OSError, ValueError) as error:
        raise click.ClickException(
            f"{error}; start the driver: it sets a damaged file aside and writes it anew"
        ) from error
    if found is None:
        text = f"{path} names no devices: no driver ever found any here, or its folder is elsewhere; give it with --plugins"
        raise click.ClickException(text)
    return found


def _faults(config: settings.Config) -> dict[str, Any]:
    """Return the health of the GPUs in this boot."""
    path = config.folder / kept.FILE
    try:
        found = kept.decoded(path.read_bytes())
        boot = checkpoint.boot_id(config.root)
    except FileNotFoundError as error:
        if Path(str(error.filename)) == path:
            return {}
        raise click.ClickException(f"{error}; mount the host's root and name it with --root") from error
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path}: {error}; start the driver: it sets a damaged file aside") from error
    return found.known(told_by_readings=True) if found.boot_id == boot else {}


def _gpu(machine: node.NodeTopology, named: str) -> device.Gpu:
    found = next((gpu for gpu in machine.gpus if named in (gpu.name, gpu.uuid)), None)
    if found is None:
        known_here = ", ".join(f"{gpu.name} ({gpu.uuid})" for gpu in machine.gpus) or "none"
        raise click.ClickException(f"{named}: no GPU of this node has this name or UUID; its GPUs are {known_here}")
    return found


def _serves(folder: Path) -> bool:
    return any(sockets.listens(path) for path in folder.glob("dra*.sock"))


def _time(at_ns: int) -> str:
    return datetime.datetime.fromtimestamp(at_ns // 10**9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
