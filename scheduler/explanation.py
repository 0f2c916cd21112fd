"""The questions that the running scheduler answers over HTTP: what is asked, and who answers it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import metadata

import msgspec
from starlette.routing import Route

from scheduler.kube import explain, explain_fleet, explain_whatif, explained, manifest, story
from scheduler.kube import pod as pods
from scheduler.kube import shell as shells
from scheduler.web import explain as web
from scheduler.web import extender, openapi, wire

MANY = 5000
"""Gangs or nodes in one answer."""

PRIORITY = 1_000_000_000
"""The highest that a user's PriorityClass can have."""

TURNS, TURN_S = 20, 0.1
"""How often, and after what time, it is looked whether the shell has taken its next turn."""

NAMESPACE = web.Parameter("namespace", "Namespace.")
NAME = web.Parameter("name", "Name.")


@dataclass(slots=True, eq=False)
class Desk:
    """Answers for one replica.

    Parameters
    ----------
    shell : callable
        The shell of the present term, None before the first sync and between two terms.
    decisions : callable
        The extender's.
    past : Story
        What was decided.
    """

    identity: str
    shell: Callable[[], shells.Shell | None]
    decisions: Callable[[], extender.Decisions | None]
    past: story.Story
    _slow: web.OneAtATime = field(default_factory=web.OneAtATime)

    def routes(self) -> tuple[Route, ...]:
        """Return the routes of all questions, and of the document that describes them."""
        asked = self.questions()
        version = metadata.version("muster-scheduler")
        return *web.routes(asked, problem), openapi.route(asked, explained.Problem, version)

    def questions(self) -> tuple[web.Question, ...]:
        """Return everything that may be asked."""
        at_most = web.Parameter("limit", "Most to list.", int, 500, MANY)
        kind = web.Parameter("kind", "Kind of the owner (JobSet, Job, ...), Annotated, Pod, or `gang` for any.")
        return (
            web.Question(
                "/explain/gangs",
                "listGangs",
                "Gangs that run or wait: state, pods, nodes, why they wait, since when.",
                explained.Gangs,
                self._gangs,
                (
                    web.Parameter("namespace", "Namespace; all where empty.", str, ""),
                    web.Parameter("state", "State; any where empty.", str, ""),
                    at_most,
                ),
            ),
            web.Question(
                "/explain/gangs/{namespace}/{kind}/{name}",
                "explainGang",
                "One gang: devices by rank, the score, the runners-up, or why it waits and what is missing.",
                explained.Gang,
                self._gang,
                (NAMESPACE, kind, web.Parameter("name", "Name of the gang's GangPlacement, or of its owner.")),
            ),
            web.Question(
                "/explain/pods/{namespace}/{name}",
                "explainPod",
                "One pod: its gang and place in the plan, or what the extender says of the nodes.",
                explained.Pod,
                self._pod,
                (NAMESPACE, NAME),
            ),
            web.Question(
                "/explain/topology",
                "showTopology",
                "The fleet as a tree of domains with free and used GPUs.",
                explained.Topology,
                self._topology,
                (
                    web.Parameter("under", "Domain to show; the whole fleet where empty.", str, ""),
                    web.Parameter("depth", "Levels to show; all where 0.", int, 0, 32),
                ),
            ),
            web.Question(
                "/explain/top",
                "showTop",
                "Devices by use, tenants, fragmentation, and the busiest nodes.",
                explained.Top,
                self._top,
                (web.Parameter("limit", "Most nodes to list.", int, 50, MANY),),
            ),
            web.Question(
                "/explain/whatif",
                "whatIf",
                "What would become of a manifest now; nothing is changed.",
                explained.WhatIf,
                self._whatif,
                (
                    web.Parameter("namespace", "Of objects that name none.", str, "default"),
                    web.Parameter("priority", "Of all gangs of the manifest, where above 0.", int, 0, PRIORITY),
                ),
                reads="Objects as for kubectl apply, YAML or JSON: pods, owners of pods, claims and claim templates.",
            ),
        )

    def _told(self) -> explain.Explain:
        """Return who answers now.

        Raises
        ------
        NotSynced
        """
        now = self.shell()
        if now is None:
            raise web.NotSynced("this replica is not synced with the API server yet; ask again in a second")
        return explain.Explain(now, self.identity, self.past, self._verdict)

    def _verdict(self, pod: pods.Pod) -> explain.Verdict:
        """Return what the extender says of all nodes of the fleet."""
        now, deciding = self.shell(), self.decisions()
        if now is None or deciding is None:
            raise web.NotSynced("this replica is not synced with the API server yet; ask again in a second")
        names = [one.name for one in now.machine.snapshot.topology.nodes]
        asked = wire.Pod(metadata=wire.Metadata(pod.name, pod.namespace, pod.uid))
        said = deciding.filter(asked, names)
        scores = dict(zip(names, deciding.ranks(asked, names).places.tolist(), strict=True))
        best = sorted(said.feasible, key=lambda name: (-scores[name], name))
        return explain.Verdict(best, {**said.failed, **said.hopeless})

    async def _gangs(self, asked: web.Asked) -> msgspec.Struct:
        words = asked.words
        return self._told().gangs(words["namespace"], words["state"], asked.numbers["limit"])

    async def _gang(self, asked: web.Asked) -> msgspec.Struct:
        told, words = self._told(), asked.words
        try:
            job = told.gang(words["namespace"], words["kind"], words["name"])
        except explain.Missing as error:
            raise web.NotFound(str(error)) from error
        except explain.Ambiguous as error:
            raise wire.BadRequest(str(error)) from error
        return await self._slow.run(job)

    async def _pod(self, asked: web.Asked) -> msgspec.Struct:
        try:
            return self._told().pod(asked.words["namespace"], asked.words["name"])
        except explain.Missing as error:
            raise web.NotFound(str(error)) from error

    async def _topology(self, asked: web.Asked) -> msgspec.Struct:
        try:
            return explain_fleet.topology(self._told(), asked.words["under"], asked.numbers["depth"])
        except explain.Missing as error:
            raise web.NotFound(str(error)) from error

    async def _top(self, asked: web.Asked) -> msgspec.Struct:
        return explain_fleet.top(self._told(), asked.numbers["limit"])

    async def _whatif(self, asked: web.Asked) -> msgspec.Struct:
        self._told()
        read = await asyncio.to_thread(manifest.parse, asked.body, asked.words["namespace"])
        try:
            trial = await self._trial(read, asked.numbers["priority"])
            await self._slow.run(trial.search)
            return trial.answer()
        except explain_whatif.FleetChanged as error:
            raise web.Busy(str(error)) from error

    async def _trial(self, read: manifest.Manifest, priority: int) -> explain_whatif.Trial:
        """Read a question; labels of nodes that nobody asked for before are there after the shell's next turn."""
        for _ in range(TURNS):
            try:
                return explain_whatif.trial(self._told(), read, priority)
            except explain_whatif.FleetChanged:
                await asyncio.sleep(TURN_S)
        return explain_whatif.trial(self._told(), read, priority)


def problem(status: int, detail: str) -> explained.Problem:
    """Return the body of an error."""
    return explained.Problem(type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail)
