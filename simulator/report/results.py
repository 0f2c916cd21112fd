"""A folder of results that appears whole: written beside its place, then exchanged for what was there."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scheduler import bad_input
from simulator import compare, scenario
from simulator.report import figures, page, plots, provenance, series, whole

MARK = "result.json"
"""The file that tells that a folder holds results of ours, and may be replaced by new ones."""


class ResultError(bad_input.BadInput):
    """A place where results can't go."""


def check(folder: Path) -> None:
    """Refuse a place before anything is computed for it.

    Raises
    ------
    ResultError
        A file, or a folder that holds something else than results.
    """
    if folder.exists() and not folder.is_dir():
        raise ResultError("is a file", file=str(folder), remedy="name a folder for --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise ResultError("holds other files", file=str(folder), remedy="name a new or empty folder for --out")


@contextlib.contextmanager
def exchanging(folder: Path) -> Iterator[Path]:
    """Give a folder to write into; on success it takes the place of `folder`, on any exception it goes away."""
    check(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (folder.parent / f".{folder.name}.{kind}" for kind in ("part", "old"))
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)


def write_run(folder: Path, run: scenario.Run, prefix: str = "") -> None:
    """Write the jobs and the series of a run; a partial one says so in every name."""
    mark = ".partial" if run.outcome.partial else ""
    series.write(series.jobs(run), folder, f"{prefix}jobs{mark}")
    series.write(series.samples(run), folder, f"{prefix}series{mark}")


def write_page(folder: Path, text: str, drawings: dict[str, page.Drawing]) -> None:
    """Write the report and its curves."""
    whole.write_text(folder / "report.html", text)
    for name, drawing in drawings.items():
        whole.write_text(folder / "plots" / f"{name}.svg", plots.standalone(drawing.svg))


def write_mark(folder: Path, result: dict[str, Any]) -> None:
    """Write the figures for programs."""
    whole.write_text(folder / MARK, json.dumps(result, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def of_run(run: scenario.Run, record: provenance.Provenance) -> dict[str, Any]:
    """Return one run's figures for programs."""
    found, made = run.outcome, figures.gangs(run.outcome)
    return {
        "partial": found.partial,
        "policy": found.policy,
        "seed": run.seed,
        "jobs": len(found.trace),
        "end_s": found.end_s,
        "events": found.events,
        "measures": figures.measures(found),
        "gangs": {name: getattr(made, name) for name in made.__slots__},
        "waited_for": found.waited_for,
        "evictions": found.evictions,
        "blocked": {str(found.trace.names[row]): str(why) for row, why in sorted(found.refusals.items())},
        "provenance": record.as_json(),
    }


def of_comparison(
    made: compare.Comparison, record: provenance.Provenance, parted: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return a comparison's figures for programs."""
    names = list(made.samples[made.policies[0]][0]) if made.seeds else []
    return {
        "partial": made.partial,
        "policies": list(made.policies),
        "seeds": list(made.seeds),
        "samples": made.samples,
        "differences": {
            other: {name: _interval(made.difference(other, name)) for name in names} for other in made.policies[1:]
        },
        "divergences": list(parted),
        "provenance": record.as_json(),
    }


def _interval(gap: compare.Interval) -> dict[str, float | int | None]:
    """Return an interval; its ends are null when there is only one sample."""
    ends = (gap.low, gap.high) if gap.n > 1 else (None, None)
    return {"mean": gap.mean, "low": ends[0], "high": ends[1], "n": gap.n}
