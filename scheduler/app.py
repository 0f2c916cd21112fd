"""The running scheduler: one server, one mirror, and a loop that leads while it holds the Lease.

A replica that does not lead follows the cluster too and answers the extender and the webhook, but plans and writes
nothing. When it begins to lead it forgets what it knows and reads everything anew, so that what its predecessor wrote
last is surely seen.
"""

import asyncio
import contextlib
import datetime
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn

from scheduler import config as configs
from scheduler import eviction, explanation, heap, policies
from scheduler.apiserver import client
from scheduler.gang import config as queueing
from scheduler.gang import machine
from scheduler.kube import (
    carrier,
    evictor,
    fabric_file,
    fleet,
    knowledge,
    kueue_controller,
    lease,
    mirror,
    observer,
    pens,
    places,
    recorder,
    recover,
    reservations,
    scribe,
    sighting,
    story,
    world,
)
from scheduler.kube import shell as shells
from scheduler.kube.gangs import outline
from scheduler.metrics import meters as metering
from scheduler.model import request
from scheduler.record import journal
from scheduler.tracing import context, opening
from scheduler.web import answers, asked, extender, server, tls, webhook, wire

if TYPE_CHECKING:
    from scheduler.tracing import exporter

LEASE: dict[str, Any] = {}
"""Other times than those of `lease`; tests are in a hurry."""

LEFT_OUT_TOLD = 8
"""Nodes that can't be planned on are named in the log at the start, so many of them."""

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Scheduler:
    """One replica.

    Attributes
    ----------
    shell : Shell or None
        Of the last term that was synced; None before the first.
    live : bool
        Whether that term still runs.
    leading : bool
    """

    config: configs.Config
    api: client.Client
    identity: str
    shell: shells.Shell | None = None
    live: bool = False
    leading: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    meters: metering.Meters = field(init=False)
    tracing: "exporter.Tracing | None" = field(init=False)
    past: story.Story = field(default_factory=story.Story)
    _answers: answers.Answers | None = None
    _asked: dict[str, request.PodRequest | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.meters = metering.new(lambda: self.shell, lambda: self.leading)
        self.tracing = opening.begin(self.config.otlp_endpoint, self.identity, self.meters.registry, os.environ)

    async def run(self) -> None:
        """Serve and lead until cancelled."""
        self.api.observe = self.meters.requests.observe
        webs = self.webs()
        async with asyncio.TaskGroup() as group:
            serving = [group.create_task(web.serve(), name="server") for web in webs]
            try:
                if self.config.leader_elect:
                    await self._elected()
                else:
                    await self._term(1)
            finally:
                for web in webs:
                    web.should_exit = True
                await asyncio.gather(*serving, return_exceptions=True)
                if self.tracing is not None:
                    await self.tracing.close()

    def webs(self) -> list[uvicorn.Server]:
        """Return the servers of extender, webhook, probes and metrics.

        The API server and the kubelet have no client certificate to show. So with TLS what they ask has a port of its
        own, without the extender, and the extender's port can ask for certificates.
        """
        host, metrics = self.config.host, server.Metrics.new(self.meters.registry)
        spans = self.tracing.spans if self.tracing is not None else None
        traced = () if spans is None else (spans.traceparent, spans.admitted)
        hook = webhook.Webhook.new(knowledge.Knowledge(self.known), metrics.registry, *traced).route()
        told = explanation.Desk(self.identity, self.present, self.decisions, self.past).routes()
        face = server.Face(self.decisions, self.config.extender_weight, metrics, also=told)
        hooked = replace(face, also=(hook, *told))
        if not self.config.tls_certificate:
            return [server.listening(hooked, host, self.config.port)]
        authority = Path(self.config.client_ca) if self.config.client_ca else None
        files = tls.Tls(Path(self.config.tls_certificate), Path(self.config.tls_key))
        asked_for = replace(files, client_ca=authority)
        return [
            server.listening(face, host, self.config.port, asked_for),
            server.listening(replace(hooked, verbs=()), host, self.config.webhook_port, files),
        ]

    def known(self) -> world.World | None:
        """Return what is known of the cluster, None before the first sync."""
        return self.shell.known if self.shell is not None else None

    def present(self) -> shells.Shell | None:
        """Return the shell of the term that runs; None before the first sync, and between two terms."""
        return self.shell if self.live else None

    def decisions(self) -> extender.Decisions | None:
        """Return who answers the extender now.

        Nobody between two terms: what the last one knew stands still, while pods are let go that it has no plan of. Where
        kube-scheduler is refused such a pod, it comes back to it after minutes.
        """
        if self.shell is None or not self.live:
            return None
        core = self.shell.machine
        if self._answers is None or self._answers.snapshot is not core.snapshot:
            self._asked.clear()
            planned = Planned(self.shell)
            held = eviction.Held(self.shell)
            self._answers = answers.Answers(
                core.snapshot, core.scoring, planned, held, self._wanted, core.foreign.short
            )
        return self._answers

    def _wanted(self, pod: wire.Pod) -> request.PodRequest | None:
        """Return what a pod asks of our devices; None for nothing, and for a pod that the mirror does not know as it is."""
        uid = pod.metadata.uid
        if uid in self._asked:
            return self._asked[uid]
        now = self.shell
        found = now.known.pod((pod.metadata.namespace, pod.metadata.name)) if now else None
        if now is None or found is None or found.uid != uid:
            return asked.from_containers(pod, "nvidia.com/gpu")
        if found.gates and pod.spec is not None and not pod.spec.scheduling_gates:
            return None  # kube-scheduler knows better: a leader has let the pod go, and its pin says where to
        try:
            wanted: request.PodRequest | None = now.sight.offered(found, now.compiled)
        except outline.NotYet:
            return None
        except ValueError as error:
            raise wire.BadRequest(f"pod {found.key}: {error}") from None
        if wanted is not None and wanted.kind is request.RequestKind.CPU and not wanted.nics:
            wanted = None
        if len(self._asked) > 100_000:
            self._asked.clear()
        self._asked[uid] = wanted
        return wanted

    def _look_again(self, known: world.World, change: mirror.Change) -> None:
        """Forget what pods asked for where a change may make it something else."""
        last = change.after if change.after is not None else change.before
        match change.kind:
            case "classes" | "templates":
                self._asked.clear()
            case "pods":
                self._asked.pop(last.uid, None)
            case "claims" if self._asked:
                users = (known.pod(key) for key in known.gangs.users(last))
                for pod in users:
                    self._asked.pop(pod.uid if pod is not None else "", None)

    async def _elected(self) -> None:
        """Stand by until the Lease is ours, lead until it is lost, and begin again."""
        own = lease.Lease(self.api, self.config.namespace, self.config.lease, self.identity, **LEASE)
        while True:
            standing = asyncio.create_task(self._term(0), name="standby")
            acquiring = asyncio.create_task(own.acquire(), name="election")
            try:
                done, _ = await asyncio.wait((standing, acquiring), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a standby that failed would answer from what it once knew
                epoch = acquiring.result()
            finally:
                await _stop(acquiring)
                await _stop(standing)
            leading = asyncio.create_task(self._term(epoch, own.held), name="leader")
            keeping = asyncio.create_task(own.keep(), name="lease")
            try:
                done, _ = await asyncio.wait((leading, keeping), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            except lease.Lost as lost:
                log.warning("leading no more", because=str(lost))
            finally:
                await _stop(keeping)
                await _stop(leading)
                with contextlib.suppress(Exception):
                    await own.release()

    async def _term(self, epoch: int, leads: Callable[[], bool] = pens.always) -> None:
        """Follow the cluster from a fresh read until cancelled; plan and write in an epoch above 0."""
        known = world.World(self.api, self._options())
        told = self._observer() if epoch else observer.Observer()
        known.listeners.append(told.changed)
        known.listeners.append(lambda change: self._look_again(known, change))
        known.store.heard = self.meters.watches.heard
        self.meters.watches.began()
        writer = scribe.Scribe(self.api, epoch, self._device_class, leads, known.pod, told)
        if epoch:
            unfinished = await recover.recover(writer)
            told.recovered(unfinished)
            log.info("recovered", plans=unfinished)
        async with _running(known.store.run(), "mirror"):
            await known.store.wait_synced(self.config.sync_s)
            await self._follow(known, writer, epoch)

    def _observer(self) -> observer.Observer:
        """Return who is told of what a leader does."""
        ears = (self.meters.work, self.past)
        if self.tracing is None:
            return observer.Observer(ears)
        spans = self.tracing.spans
        return observer.Observer((*ears, spans), lambda gang: spans.header(context.of_gang(gang)))

    async def _follow(self, known: world.World, writer: scribe.Scribe, epoch: int) -> None:
        told = recorder.Recorder(self.api, self.identity)
        desk = reservations.Reservations(known)
        hasty = pens.Pen(self.api, epoch, writer.leads, patience_s=0.0, fenced=writer.observer.fenced)
        check = kueue_controller.Controller(hasty, known.store.served, desk)
        carry = carrier.Carrier(
            known, writer, told, evictor.Evictor(writer.pen), check.answer, check.pods_came, writer.observer
        )
        make = self._journal if epoch else self._machine  # what stands by decides nothing worth keeping
        now = shells.Shell(known, sighting.Sight(known), self._settings(), make, carry, leads=epoch > 0)
        desk.shell = now
        now.begin()
        heap.settle()
        self.shell, self.live, self.leading, self._answers = now, True, epoch > 0, None
        self.ready.set()
        log.info(
            "synced", nodes=len(now.compiled.topology.nodes), left_out=len(now.compiled.rejected), leading=epoch > 0
        )
        for node, why in list(now.compiled.rejected.items())[:LEFT_OUT_TOLD]:
            log.warning("node left out of the fleet", node=node, why=why)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(told.run(), name="recorder")
                if epoch:
                    desk.listen(check)
                    group.create_task(check.run(), name="kueue")
                    group.create_task(recover.sweep(writer.pen, now.followed), name="sweep")
                group.create_task(now.run(), name="shell")
        finally:
            self.live = self.leading = False

    def _options(self) -> fleet.Options:
        labels = tuple(one.strip() for one in self.config.level_labels.split(",") if one.strip())
        found = fabric_file.read(Path(self.config.fabric)) if self.config.fabric else places.Paths()
        return fleet.Options(level_labels=labels, paths=found)

    def _settings(self) -> shells.Settings:
        return shells.Settings(policies.load(self.config.policy), owned=self.config.owned, bind_s=self.config.bind_s)

    def _machine(self, first: fleet.Compiled) -> machine.Machine:
        return machine.Machine(
            first.scoring,
            queueing.QueueConfig(
                mode=self.config.queue,
                preempt=self.config.preempt == "execute",
                defragment=self.config.defragment == "execute",
                offers=self.config.offers,
                move_after_s=self.config.move_after_s,
                reservation_s=self.config.reservation_s,
            ),
        )

    def _journal(self, first: fleet.Compiled) -> journal.Journal | machine.Machine:
        core = self._machine(first)
        if not self.config.audit_folder:
            return core
        began = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%f")
        return journal.Journal(core, Path(self.config.audit_folder), f"{began}-{self.identity}", self._unlogged)

    def _unlogged(self, error: OSError) -> None:
        self.meters.work.unlogged()
        log.error(
            "the decision log has ended; decisions go on",
            folder=self.config.audit_folder,
            problem=str(error),
            remedy="make room there, then let the scheduler begin a new term: delete its pod",
        )

    def _device_class(self, name: str) -> dict[str, Any] | None:
        """Return the config of a class as the API has it."""
        if self.shell is None:
            return None
        found = self.shell.known.store["classes"].get(("", name))
        return None if found is None else {"spec": {"config": list(found.config)}}


@dataclass(frozen=True, slots=True)
class Planned(Mapping[str, str]):
    """Node by UID of every pod that has a plan, here or by the claims and the pin that a leader gave it."""

    now: shells.Shell

    def __getitem__(self, uid: str) -> str:
        planned = self.now.carrier.members_node.get(uid)
        return planned if planned is not None else self._pinned(uid)

    def _pinned(self, uid: str) -> str:
        """Return where a leader put a pod of which this replica has no plan."""
        known = self.now.known
        pod = known.pod(known.by_uid[uid])
        claims = [known.claim(pod.namespace, ref.claim) for ref in pod.claims] if pod else []
        if pod is None or not pod.pinned or not any(one and one.rows is not None for one in claims):
            raise KeyError(uid)
        return pod.pinned

    def __iter__(self) -> Iterator[str]:
        return iter(self.now.carrier.members_node)

    def __len__(self) -> int:
        return len(self.now.carrier.members_node)


async def main(config: configs.Config) -> None:
    """Run until SIGTERM or SIGINT."""
    identity = config.identity or f"{socket.gethostname()}-{uuid.uuid4().hex[:6]}"
    path = Path(config.kubeconfig) if config.kubeconfig else None
    async with await client.Client.connect(path) as api:
        one = asyncio.create_task(Scheduler(config, api, identity).run(), name="scheduler")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, one.cancel)
        log.info("starting", identity=identity, server=api.server, pid=os.getpid())
        with contextlib.suppress(asyncio.CancelledError):
            await one


@contextlib.asynccontextmanager
async def _running(job: Any, name: str) -> AsyncIterator[None]:
    """Run something beside the body; if it fails, so does the body."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(job, name=name)
        yield
        task.cancel()


async def _stop(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
