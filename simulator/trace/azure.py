"""Azure's LLM inference traces (Splitwise, ISCA'24; DynamoLLM): arrival, prompt tokens, generated tokens."""

import numpy as np

from simulator.trace import job, pools, table

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
FORMAT = "%Y-%m-%d %H:%M:%S%.f"
MAX_TOKENS = 10_000_000


def requests(source: table.Table, name: str) -> pools.Requests:
    """Read the requests; they may come in any order.

    Raises
    ------
    TraceError
    """
    source.need(COLUMNS)
    words = source.text("TIMESTAMP")
    times = words.str.strip_suffix("+00:00").str.to_datetime(FORMAT, strict=False, time_unit="ns")
    bad = times.is_null().arg_max()
    if bad is not None and times[bad] is None:
        raise source.error(bad, "TIMESTAMP", "not a time", "write 2023-11-16 18:17:03.9799600")
    ticks = times.dt.epoch("ns").to_numpy()
    since = (ticks - ticks.min()) / 1e9
    order = np.argsort(since, kind="stable")
    return pools.Requests(
        name=name,
        sha256=source.sha256,
        arrival_s=since[order],
        prompt_tokens=source.integers("ContextTokens", 0, MAX_TOKENS)[order],
        output_tokens=source.integers("GeneratedTokens", 0, MAX_TOKENS)[order],
    )


def read(source: table.Table, name: str, capacity: pools.Capacity | None = None) -> job.Trace:
    """Make a trace of the pool's replicas."""
    return pools.jobs(requests(source, name), capacity)
