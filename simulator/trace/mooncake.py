"""Mooncake's request traces (FAST'25): JSON lines with arrival in ms, token counts and prefix block hashes."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from simulator.trace import content, job, pools

FIELDS = ("timestamp", "input_length", "output_length")
BLOCKS = "hash_ids"
BLOCK_TOKENS = 512
MAX_TOKENS = 10_000_000
MAX_MS = 10**13
BOUNDS = dict(zip(FIELDS, (MAX_MS, MAX_TOKENS, MAX_TOKENS), strict=True))


def requests(file: str, data: bytes, name: str, *, prefix_cache: bool = False) -> pools.Requests:
    """Read the requests.

    Parameters
    ----------
    prefix_cache : bool
        Leave out prompt tokens of leading blocks that an earlier request had: an unbounded cache that all replicas
        share, so a lower bound of the work.

    Raises
    ------
    TraceError
    """
    lines = content.text(file, data).rstrip("\n").split("\n")
    rows = [_row(file, number, line) for number, line in enumerate(lines, start=1)]
    columns = np.array([[row[field] for field in FIELDS] for row in rows], dtype=np.int64)
    order = np.argsort(columns[:, 0], kind="stable")
    prompts = columns[:, 1].copy()
    if prefix_cache:
        hits = cached_blocks([rows[i].get(BLOCKS, ()) for i in order.tolist()])
        prompts[order] = np.maximum(prompts[order] - BLOCK_TOKENS * hits, 0)
    return pools.Requests(
        name=name,
        sha256=content.sha256(data),
        arrival_s=(columns[order, 0] - columns[:, 0].min()) / 1000,
        prompt_tokens=prompts[order],
        output_tokens=columns[order, 2],
    )


def read(file: str, data: bytes, name: str, capacity: pools.Capacity | None = None) -> job.Trace:
    """Make a trace of the pool's replicas."""
    return pools.jobs(requests(file, data, name), capacity)


def cached_blocks(blocks: Iterable[Iterable[int]]) -> np.ndarray:
    """Return for each request, in order of arrival, how many leading blocks an earlier one had."""
    seen: set[int] = set()
    hits = []
    for own in blocks:
        known = [block in seen for block in own]
        hits.append(known.index(False) if False in known else len(known))
        seen.update(own)
    return np.array(hits, dtype=np.int64)


def _row(file: str, number: int, line: str) -> dict[str, Any]:
    """Read one line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise job.TraceError("not a JSON object", file=file, line=number, value=line) from error
    if not isinstance(row, dict):
        raise job.TraceError("not a JSON object", file=file, line=number, value=line)
    for field, bound in BOUNDS.items():
        value = row.get(field)
        if type(value) is not int or not 0 <= value <= bound:
            problem = "this field is missing" if field not in row else f"not a whole number from 0 to {bound}"
            words = "" if field not in row else str(value)
            raise job.TraceError(problem, file=file, line=number, field=field, value=words)
    for field in row:
        if field not in BOUNDS and field != BLOCKS:
            remedy = f"known are {', '.join((*FIELDS, BLOCKS))}"
            raise job.TraceError("unknown field", file=file, line=number, field=field, remedy=remedy)
    blocks = row.get(BLOCKS, [])
    if not isinstance(blocks, list) or not all(type(block) is int for block in blocks):
        raise job.TraceError("not a list of whole numbers", file=file, line=number, field=BLOCKS)
    return row
