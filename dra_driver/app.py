"""The composition root: puts the parts of the driver together and runs them in one loop until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import structlog

from dra_driver import (
    cdi,
    checkpoint,
    claims_api,
    container,
    healthstream,
    host_files,
    instance,
    inventory,
    known,
    locks,
    metadata,
    mig,
    plugin,
    programs,
    sharing,
    state,
    threads,
)
from dra_driver import config as settings
from dra_driver.health import clearing, kept, source, taints, watcher
from dra_driver.metrics import service, work
from dra_driver.probe import interface
from dra_driver.publish import publisher, turn
from scheduler.apiserver import client
from scheduler.model import node as model_node

log = structlog.get_logger()

Service = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Node:
    """What was found on the node.

    Attributes
    ----------
    services : sequence of functions
        Run beside the plugin until it ends: publishing, discovery, health, metrics.
    tell_stream : function
        Takes what is to be called when the health changed.
    """

    machine: state.Machine
    hardware: mig.Hardware
    driver_version: Callable[[], str]
    events: claims_api.NodeEvents
    health: healthstream.Source | None = None
    services: Sequence[Service] = ()
    hooks: instance.Hooks = instance.Hooks()
    tell_stream: Callable[[Callable[[], None]], None] = lambda changed: None
    work: work.Work = field(default_factory=work.Work)


def parts(config: settings.Config, node: Node, claims: state.Claims) -> state.Parts:
    """Return what a state works with; an instance makes the folders."""
    folder = config.folder
    found = programs.of_host(config.root, config.host_root, config.driver_root)
    daemons = sharing.Daemons(folder / "mps", str(folder / "mps"), found)
    files = host_files.HostFiles(config.root, config.host_root, config.driver_root)
    return state.Parts(
        config.driver,
        checkpoint.Store(folder),
        locks.Locks(folder / "locks"),
        cdi.Folder(config.cdi, config.driver),
        metadata.Folder(folder / "metadata", str(folder / "metadata"), config.driver),
        container.Source(files, node.hardware, daemons, node.driver_version),
        node.hardware,
        daemons,
        found,
        node.machine,
        claims,
        config.dynamic_mig,
    )


async def serve(
    config: settings.Config, api: client.Client, node: Node, ready: Callable[[], None] = lambda: None
) -> None:
    """Run one instance until SIGTERM or SIGINT, and leave cleanly."""
    status = claims_api.StatusWriter(api, config.driver, node.machine)

    def prepared_claim(entry: Any) -> None:
        status.tell(entry)
        node.hooks.prepared_claim(entry)

    def event(reason: str, message: str) -> None:
        node.events.tell(reason, message)
        node.hooks.event(reason, message)

    def call_ended(call: plugin.Call) -> None:
        if call.method == "unprepare":
            _forget(status, running.state.parts.store)
        node.work.ended(call)
        node.hooks.call_ended(call)

    hooks = replace(node.hooks, prepared_claim=prepared_claim, event=event, call_ended=call_ended)
    running = instance.Instance(
        parts(config, node, claims_api.ApiClaims(api)),
        config.sockets,
        checkpoint.boot_id(config.root),
        node.health if config.health else None,
        hooks,
        config.sweep_s,
        versions=config.versions,
    )
    running.plugin = work.Plugin(running.state, node.work, prepared_claim=prepared_claim, ended=call_ended)
    if running.stream is not None:
        node.tell_stream(running.stream.changed)
    with _signals() as stopped:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work()) for work in (status.run, node.events.run, *node.services)]
            if await _started(running, stopped):
                tasks.append(group.create_task(running.run()))
                ready()
                await stopped.wait()
                log.info("stopping")
                await running.stop()
            for task in tasks:
                task.cancel()


async def _started(running: instance.Instance, stopped: asyncio.Event) -> bool:
    """Start an instance, which may have to wait for the disk or the API server; return False where a signal was first."""
    starting, signalled = asyncio.create_task(running.start()), asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait((starting, signalled), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            return True
        log.info("stopping before the start was over")
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return False
    finally:
        starting.cancel()
        signalled.cancel()


def _forget(status: claims_api.StatusWriter, store: checkpoint.Store) -> None:
    """Drop the claims that are not prepared any more; what cannot be read now is dropped after the next call."""
    try:
        status.keep(store.read().claims)
    except (checkpoint.CheckpointError, OSError) as error:
        log.warning("claims that were told are kept in memory", error=str(error))


async def run(config: settings.Config, probe: interface.Probe) -> None:
    """Discover the node and serve until a signal."""
    reading = threads.Threads(model_node.MAX_GPUS + 2, "reading")  # each GPU's calls, the events, and discovery
    try:
        with contextlib.suppress(OSError):  # told and tried again by the instance
            config.folder.mkdir(parents=True, exist_ok=True)
        store = checkpoint.Store(config.folder)
        names = known.File(config.folder, lambda: known.held(store))
        found = await inventory.Inventory.begin(probe, config.node_name, names, reading)
        async with await client.Client.connect(config.kubeconfig, user_agent="muster-dra-driver") as api:
            measured = work.Work()
            publishing = work.Publisher(
                api,
                config.node_name,
                config.driver,
                measured,
                config.own_devices,
                lists=config.numa_lists,
                turn=turn.Turn(config.folder),
            )
            watching = _watcher(config, probe, found.published, reading)
            watching.tell(lambda machine, taints: publishing.want(publisher.Wanted(machine, taints)))
            found.tell(watching.found)
            events = claims_api.NodeEvents(api, config.driver, config.node_name)
            watching.tell_cleared(lambda request, name: events.note("FaultsCleared", request.told(name)))
            await watching.start()
            told = service.Service(config, api, found, watching, publishing, measured)
            services = (lambda: found.run(config.discover_s), watching.run, publishing.run, *told.services)
            node = Node(
                found,
                probe,
                lambda: found.found.driver_release,
                events,
                watching.source,
                services,
                instance.Hooks(registered=told.registration),
                watching.tell_stream,
                measured,
            )
            # As the kubelet would stop it: claims under way end, and the pod's next container opens the library anew.
            watching.tell_end(lambda: signal.raise_signal(signal.SIGTERM))
            await serve(config, api, node, told.started)
            if watching.ended:
                raise interface.SessionEnded(watching.ended)
    finally:
        await _let_go(probe, reading)


async def _let_go(probe: interface.Probe, reading: threads.Threads) -> None:
    """End the session with the library, but not below calls that are still in it; nor wait for those that hang."""
    if await reading.close() and not threads.under_way():
        closing = asyncio.get_running_loop().run_in_executor(threads.Threads(1, "closing"), probe.close)
        for closed in (await asyncio.wait((closing,), timeout=threads.LEAVE_S))[0]:
            closed.result()


def _watcher(
    config: settings.Config, probe: interface.Probe, machine: model_node.NodeTopology, reading: threads.Threads
) -> watcher.Watcher:
    requests = clearing.Clearing(clearing.Folder(config.folder / clearing.FOLDER))
    faults = kept.Faults(config.folder / kept.FILE, checkpoint.boot_id(config.root))
    times = taints.Times(config.folder / taints.FILE)
    return watcher.Watcher(
        probe, machine, source.Source(machine.name), times, faults, config.health_s, reading, requests
    )


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """Yield an event that SIGTERM and SIGINT set."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def set_up_logs(level: str) -> None:
    """Write one JSON object for each record to the standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(
                serializer=lambda record, **_: orjson.dumps(record, default=str).decode()
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
