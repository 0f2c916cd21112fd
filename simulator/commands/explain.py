"""``muster-sim explain``: one job's decision, told in full."""

import json
from typing import Any

import click
import numpy as np

from scheduler.placement import explain, placement
from scheduler.snapshot import state
from simulator import replay
from simulator.commands import console, inputs
from simulator.report import sheet, units

TERMS = (
    "Score terms are integers, lower is better. Those of a lone pod are weighed and add up to its score (nano-GPU for the "
    "opportunity cost); those of a gang are milli-GPU that its policy then weighs."
)

ENDS = 4
"""Reasons shown from the beginning and from the end of a long wait."""


@click.command()
@inputs.options
@click.option("--job", required=True, help="Name of the job.")
@click.option("--policy", "name", default="muster", show_default=True, help="Built-in name or ScoringPolicy file.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@console.json_option
def command(given: inputs.Given, job: str, name: str, seed: int, as_json: bool) -> None:
    """Explain one job's decision: what was chosen and at what price, the runners-up, and what blocked it before.

    The trace is replayed up to the job's first start, so the fleet is as it was then.

    \b
    muster-sim explain cluster04.csv --fleet 80x8 --job c9c620ea-4336-c1a9-8abe-e26bd13076b8
    """
    read = inputs.read(given)
    made = read.scenario(inputs.policies_of([name])[0], seed)
    row = np.flatnonzero(made.trace.names == job)
    if not len(row):
        near = [str(other) for other in made.trace.names if job.lower() in str(other).lower()][:5]
        hint = f"; near it are {', '.join(near)}" if near else ""
        console.refuse(f"--job: the trace {made.trace.name} has no job {job!r}{hint}")
    driven, said = watch(made.replay, job)
    snapshot = before(driven, job)
    story = explain.explain(snapshot, made.trace.gang(int(row[0])), driven.scored)
    submitted = float(made.trace.submit_s[int(row[0])])
    if as_json:
        console.put_json(as_dict(story, said, submitted))
        return
    console.show([history(said, submitted), *sheets(story, driven)])


def watch(replay_of: Any, job: str) -> tuple[replay.Replay, list[dict[str, Any]]]:
    """Replay until the job starts, is refused, or nothing more happens; return what the log said of it."""
    said: list[dict[str, Any]] = []

    def note(line: str) -> None:
        if job in line:
            read = json.loads(line)
            if read["gang"] == job:
                said.append(read)

    driven: replay.Replay = replay_of(note)
    while driven.advance(1):
        if said and said[-1]["effect"] in ("Start", "Reject"):
            break
    return driven, said


def before(driven: replay.Replay, job: str) -> state.Snapshot:
    """Return the fleet as it was when the job's decision was made.

    Notes
    -----
    One event may start several gangs: those started with or after the job give back what they hold. Victims of a
    preemption for the job are gone already, as they were when its devices were chosen.
    """
    snapshot = driven.machine.snapshot.copy()
    held = {one.gang.name: one for one in driven.machine.held}
    if job in held:
        for one in held.values():
            if one.decision >= held[job].decision:
                for grant in one.placement.grants:
                    snapshot.release(grant)
    return snapshot


def history(said: list[dict[str, Any]], submitted: float) -> sheet.Sheet:
    """Return what happened to the job, in order."""
    rows = [("submitted", units.duration(submitted), "")]
    shown = said if len(said) <= 2 * ENDS else [*said[:ENDS], *said[-ENDS:]]
    for line in shown:
        words = line.get("says") or f"on {line.get('domain', '?')}, decision {line.get('decision', '-')}"
        rows.append((line["effect"].lower(), units.duration(line["t"]), f"{words} (because: {line['because']})"))
    left = len(said) - len(shown)
    note = f"{left} more reasons in between are left out." if left else ""
    return sheet.sheet("What happened", "<event|at|<words", rows, note)


def sheets(story: explain.Explanation, driven: replay.Replay) -> list[sheet.Sheet]:
    """Return the decision as tables."""
    made = story.decision
    if isinstance(made, placement.Placement):
        facts = [
            ("placed", f"{len(made.grants)} of {made.gang.size} pods on {len(made.nodes)} nodes"),
            ("tightest domain", f"{made.level} {made.domain}"),
            ("predicted bandwidth", units.bandwidth(made.bandwidth_mb_s)),
        ]
        nodes = driven.scored.topology.nodes
        where = [(str(rank), role.name, nodes[g.node].name, _devices(g)) for rank, role, g in made.members()]
        note = f"The first 16 of {len(where)} ranks." if len(where) > 16 else ""
        devices = sheet.sheet("Devices", "rank|<role|<node|<GPUs in rank order", where[:16], note)
    else:
        facts = [("refused", str(made))]
        devices = sheet.sheet("Devices", "<", [])
    return [
        sheet.sheet(f"Decision on {story.gang}, policy {story.policy}", "<figure|<value", facts),
        devices,
        _candidates("Compared domains", story.compared, TERMS),
        _candidates("Domains passed over", story.passed_over, ""),
    ]


def _devices(grant: state.Grant) -> str:
    """Write the GPUs of a grant, with their share or partition."""
    gpus = ", ".join(map(str, grant.gpus)) or "none"
    if grant.partitions:
        return ", ".join(f"{gpu} (slices {mask:#x})" for gpu, mask in grant.partitions)
    return gpus if grant.milli in (0, state.FULL) else f"{gpus} ({grant.milli} milli)"


def _candidates(title: str, found: tuple[placement.Candidate, ...], note: str) -> sheet.Sheet:
    rows = []
    for turn, candidate in enumerate(found):
        terms = ", ".join(f"{name} {number:,}" for name, number in candidate.terms)
        place = "chosen" if candidate.terms and not turn else f"runner-up {turn}" if candidate.terms else "-"
        rows.append((candidate.domain, candidate.level, place, candidate.refusal or terms or "first in the order"))
    return sheet.sheet(title, "<domain|<level|<place|<why", rows, note)


def as_dict(story: explain.Explanation, said: list[dict[str, Any]], submitted: float) -> dict[str, Any]:
    """Return the decision for programs."""
    made = story.decision
    refused = None if isinstance(made, placement.Placement) else {"reason": made.reason.value, "says": str(made)}
    return {
        "gang": story.gang,
        "policy": story.policy,
        "submitted_s": submitted,
        "history": said,
        "placed": refused is None,
        "rejection": refused,
        "compared": [_candidate(c) for c in story.compared],
        "passed_over": [_candidate(c) for c in story.passed_over],
    }


def _candidate(found: placement.Candidate) -> dict[str, Any]:
    return {"domain": found.domain, "level": found.level, "terms": dict(found.terms), "refusal": found.refusal}
