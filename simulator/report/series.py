"""A run as columns: one row per job and one per sample, as CSV and Parquet."""

from pathlib import Path

import numpy as np
import polars as pl

from simulator import outcome, scenario
from simulator.report import whole

STATES = {state.value: state.name.lower() for state in outcome.State}


def jobs(run: scenario.Run) -> pl.DataFrame:
    """Return one row per job, in the order of the trace; times in seconds, null where there is none."""
    found, trace = run.outcome, run.outcome.trace
    names = trace.names.tolist()
    levels = (*found.topology.tree.levels, None)
    refusals = [found.refusals.get(row) for row in range(len(trace))]
    waited = [run.waited.get(name) for name in names]
    frame = pl.DataFrame(
        {
            "name": pl.Series(names, dtype=pl.String),
            "tenant": pl.Series([trace.tenants[t] for t in trace.tenant.tolist()], dtype=pl.String),
            "priority": trace.priority,
            "gpus": trace.gpus(),
            "pods": np.array([s.gang.size for s in trace.shapes], dtype=np.int64)[trace.shape],
            "submit_s": trace.submit_s,
            "state": pl.Series([STATES[s] for s in found.jobs.state.tolist()], dtype=pl.String),
            "start_s": found.jobs.start_s,
            "end_s": found.jobs.end_s,
            "wait_s": found.jobs.wait_s,
            "run_s": found.jobs.run_s,
            "reference_s": found.jobs.reference_s,
            "lost_s": found.jobs.lost_s,
            "starts": found.jobs.starts,
            "pods_placed": found.jobs.placed,
            "nodes": found.jobs.nodes,
            "level": pl.Series([levels[level] for level in found.jobs.level.tolist()], dtype=pl.String),
            "bandwidth_mb_s": found.jobs.bandwidth_mb_s,
            "best_bandwidth_mb_s": found.jobs.reference_mb_s,
            "waited_for": pl.Series([w.reason if w else None for w in waited], dtype=pl.String),
            "waited_for_words": pl.Series([w.says if w else None for w in waited], dtype=pl.String),
            "blocked_by": pl.Series([r.reason.value if r else None for r in refusals], dtype=pl.String),
            "blocked_by_words": pl.Series([str(r) if r else None for r in refusals], dtype=pl.String),
        }
    )
    return frame.with_columns(pl.col("start_s", "end_s").fill_nan(None))


def samples(run: scenario.Run) -> pl.DataFrame:
    """Return the fleet over time."""
    series = run.outcome.series
    return pl.DataFrame(
        {
            "time_s": pl.Series(series.time_s, dtype=pl.Float64),
            "allocated_gpus": pl.Series(series.allocated_gpus, dtype=pl.Float64),
            "up_gpus": pl.Series(series.up_gpus, dtype=pl.Float64),
            "fragmented_gpus": pl.Series(series.fragmented_gpus, dtype=pl.Float64),
            "waiting": pl.Series(series.waiting, dtype=pl.Int64),
        }
    )


def write(frame: pl.DataFrame, folder: Path, name: str) -> None:
    """Write a frame as ``name.csv`` and ``name.parquet``."""
    with whole.replacing(folder / f"{name}.csv") as partial:
        frame.write_csv(partial)
    with whole.replacing(folder / f"{name}.parquet") as partial:
        frame.write_parquet(partial)
