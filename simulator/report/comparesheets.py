"""A comparison as tables: measures, paired differences, jobs that changed, the first divergent decision."""

import math
from collections.abc import Sequence
from typing import Any

from simulator import compare
from simulator.report import figures, sheet, units

SHOWN = 10


def sheets(made: compare.Comparison) -> list[sheet.Sheet]:
    """Return the measures and their differences."""
    others = made.policies[1:] if len(made.seeds) > 1 else ()
    return [measures(made), *(differences(made, other) for other in others)]


def measures(made: compare.Comparison) -> sheet.Sheet:
    """Return the mean of every measure by policy, the best value of each marked."""
    names = list(made.samples[made.policies[0]][0])
    rows, best = [], []
    for r, name in enumerate(names):
        means = [sum(made.values(p, name)) / len(made.values(p, name)) for p in made.policies]
        rows.append((label(name), *(value(name, mean) for mean in means)))
        target = max(means) if name in figures.HIGHER else min(means)
        if max(means) > min(means):
            best += [(r, c + 1) for c, mean in enumerate(means) if mean == target]
    title = f"Measures, mean of {len(made.seeds)} seeds" if len(made.seeds) > 1 else "Measures"
    note = "" if len(made.seeds) > 1 else "One seed, so no interval: --seeds 10 tells luck from difference."
    plain = sheet.sheet(title, "|".join(("<measure", *made.policies)), rows, note)
    return sheet.Sheet(plain.title, plain.columns, plain.rows, plain.note, tuple(best))


def differences(made: compare.Comparison, other: str) -> sheet.Sheet:
    """Return the paired difference of another policy to the first, with its interval."""
    rows = []
    for name in made.samples[other][0]:
        gap = made.difference(other, name)
        if gap.mean == 0 and gap.half_width == 0:
            continue
        rows.append((label(name), value(name, gap.mean, True), *_span(name, gap)))
    equal = len(made.samples[other][0]) - len(rows)
    note = f"Student's t over {len(made.seeds)} pairs; a pair has the same jobs, failures and order of equal nodes."
    note += f" {equal} measures are equal on every seed." if equal else ""
    title = f"{other} against {made.policies[0]}: paired difference"
    return sheet.sheet(title, "<measure|difference|95 % interval|<verdict", rows, note)


def _span(name: str, gap: compare.Interval) -> tuple[str, str]:
    """Write an interval and what it says."""
    if gap.n < 2:
        return "-", "not known"
    if gap.half_width == 0:
        return "none", "same on every seed"
    better = (gap.mean > 0) == (name in figures.HIGHER)
    verdict = ("better" if better else "worse") if gap.decided else "undecided"
    return f"{value(name, gap.low, True)} … {value(name, gap.high, True)}", verdict


def label(name: str) -> str:
    """Return a measure's name; times say their unit in the cell."""
    return name.removesuffix(" (s)")


def value(name: str, number: float, signed: bool = False) -> str:
    """Write a measure in its unit, which its name tells."""
    if math.isnan(number):
        return "-"
    sign = "+" if signed and number > 0 else ""
    if name.endswith("(s)"):
        return sign + units.duration(number)
    if "%" in name:
        return f"{sign}{number:.2f}"
    return f"{sign}{number:,.1f}" if number != int(number) else f"{sign}{number:,.0f}"


def changed(first: str, other: str, found: Sequence[compare.Change], jobs: int) -> sheet.Sheet:
    """Return the jobs whose wait changed most."""
    rows = [
        (
            change.job,
            f"{change.gpus:g}",
            _arrow([units.duration(wait) for wait in change.wait_s]),
            _arrow([str(nodes) for nodes in change.nodes]),
            _arrow([units.bandwidth(mb_s) for mb_s in change.bandwidth_mb_s]),
        )
        for change in found[:SHOWN]
    ]
    note = f"{units.count(len(found))} of {units.count(jobs)} jobs changed; these changed most."
    head = "<job|GPUs|wait|nodes|bandwidth"
    return sheet.sheet(f"Jobs that changed: {first} → {other}", head, rows, note)


def _arrow(sides: Sequence[str]) -> str:
    return sides[0] if sides[0] == sides[1] else f"{sides[0]} → {sides[1]}"


def parted(first: str, other: str, found: compare.Divergence | None) -> sheet.Sheet:
    """Return the first decision in which two policies differ, side by side."""
    if found is None:
        return sheet.sheet(
            f"First divergent decision: {first} against {other}", "<", [("none: the decisions are equal",)]
        )
    sides = [_told(line) for line in found.lines]
    rows = [(key, sides[0].get(key, "-"), sides[1].get(key, "-")) for key in dict.fromkeys((*sides[0], *sides[1]))]
    title = f"First divergent decision, number {found.number} of the log"
    return sheet.sheet(
        title, f"<|<{first}|<{other}", rows, "Score terms are integers, lower is better, in their order."
    )


def _told(line: dict[str, Any] | None) -> dict[str, str]:
    """Write a log line as fields."""
    if line is None:
        return {"effect": "the log has ended"}
    said = {
        "time": units.duration(line["t"]),
        "gang": line["gang"],
        "effect": line["effect"],
        "because": line["because"],
    }
    if "pods" in line:
        places = [f"{node} [{','.join(map(str, gpus))}]" for node, gpus, *_ in line["pods"]]
        said |= {"domain": line["domain"], "devices": units.listing(places, 4)}
        said["bandwidth"] = units.bandwidth(line["bandwidth_mb_s"])
        said["terms"] = ", ".join(f"{name} {number:,}" for name, number in line["terms"].items()) or "order of the rule"
    if "says" in line:
        said["reason"] = line["says"]
    return said
