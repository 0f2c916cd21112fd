"""Start one controller of another project: its CRDs and rights first, then its process, then its webhooks.

The webhooks come last because the API server refuses every object that they watch while nobody answers. The process has
the service account and the RBAC rules that its project ships, so a right that is missing there is missing here too.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from scheduler.apiserver import client
from tests.testbed import build, kubeconfig, pki, ports, process
from tests.testbed.controllers import manifests, webhooks

TOKEN_S = 30 * 24 * 3600  # as long as the certificates of the testbed's authority
READY_S = 60.0


class Cluster(Protocol):
    """What the start of a controller needs of a cluster."""

    folder: Path
    server: str
    kubeconfig: Path
    authority: pki.Authority
    parts: process.Group


@dataclass(frozen=True, slots=True)
class Seat:
    """Where one controller sits: its folder, its serving certificates, its ports on 127.0.0.1."""

    folder: Path
    certificates: Path
    webhook: int
    health: int
    metrics: int


def _unchanged(objects: list[manifests.Object]) -> list[manifests.Object]:
    return objects


def _plain(seat: Seat, argv: list[str]) -> list[str]:
    return argv


@dataclass(frozen=True, slots=True)
class Controller:
    """What differs between the controllers.

    Parameters
    ----------
    name : str
        Of the binary, of its module and of the part in the cluster.
    config : callable
        The configuration file, as the project's own type has it.
    probe, mark : object, field path
        A dry run of the object comes back with the field, which only the webhook sets.
    choose : callable
        What of the project's objects is applied.
    wrap : callable
        The command around the controller's own.
    """

    name: str
    config: Callable[[Seat], Mapping[str, Any]]
    probe: manifests.Object
    mark: tuple[str, ...]
    flags: tuple[str, ...] = ()
    choose: Callable[[list[manifests.Object]], list[manifests.Object]] = _unchanged
    wrap: Callable[[Seat, list[str]], list[str]] = _plain


@dataclass(frozen=True, slots=True)
class Running:
    """A controller whose webhooks answer."""

    process: process.Process = field(repr=False)
    seat: Seat


def start(home: Cluster, wanted: Controller) -> Running:
    """Run `started` in an event loop of its own."""
    return asyncio.run(started(home, wanted))


async def started(home: Cluster, wanted: Controller) -> Running:
    """Install and start a controller; return when the API server really calls its webhooks.

    Called again after the process has ended, it starts the controller anew on other ports. Never call it in a thread
    that ends before the cluster does: a part is killed when the thread that started it ends.
    """
    upstream = build.module_folder(wanted.name) / "config" / "default"
    objects = wanted.choose(manifests.rendered(build.kubectl(), upstream))
    seat = _seat(home, wanted.name)
    objects = webhooks.by_url(objects, seat.webhook, home.authority.ca.read_bytes())
    async with await client.Client.connect(home.kubeconfig) as api:
        await _install(api, home, seat, objects)
        part = _process(home, wanted, seat)
        await manifests.apply(api, manifests.of_kind(objects, manifests.WEBHOOKS))
        await webhooks.answer(api, wanted.probe, wanted.mark)
    return Running(part, seat)


def _process(home: Cluster, wanted: Controller, seat: Seat) -> process.Process:
    """Write the configuration, start the program and wait until it listens."""
    config = seat.folder / "config.yaml"
    config.write_text(yaml.safe_dump(dict(wanted.config(seat)), sort_keys=False))
    argv = [str(build.binary(wanted.name)), f"--config={config}", *wanted.flags]
    return home.parts.start(
        wanted.name,
        wanted.wrap(seat, argv),
        env={"KUBECONFIG": str(seat.folder / "kubeconfig")},
        ready=lambda: _ready(seat) and webhooks.listening(seat.webhook, home.authority.ca),
        deadline_s=READY_S,
    )


def _seat(home: Cluster, name: str) -> Seat:
    folder = home.folder / name
    certificates = webhooks.certificates(home.authority, f"{name}-webhook", folder / "certs")
    return Seat(folder, certificates, *ports.free(3))


def _ready(seat: Seat) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{seat.health}/readyz", timeout=2.0) as said:
        return bool(said.status == 200)


async def _install(api: client.Client, home: Cluster, seat: Seat, objects: Sequence[manifests.Object]) -> None:
    await manifests.apply(api, manifests.outside_pods(objects))
    token = await _token(api, *manifests.account(objects))
    kubeconfig.write(seat.folder / "kubeconfig", home.server, home.authority.ca, token)


async def _token(api: client.Client, namespace: str, name: str) -> str:
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_S},
    }
    made = await api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", asked)
    return str(made["status"]["token"])
