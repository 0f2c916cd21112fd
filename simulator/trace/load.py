"""A trace from whatever file the user names: the format is told from the content, and from the name only after that."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from simulator.trace import azure, content, elasticflow, gavel, job, mooncake, openb, pods, pools, schema, swf, table


@dataclass(frozen=True, slots=True)
class Options:
    """What the formats leave open.

    Attributes
    ----------
    pod_size : PodSize
        For traces that know gangs only by their number of GPUs.
    processors_per_gpu : int
        For the standard workload format.
    capacity : Capacity, optional
        For traces of requests.
    """

    pod_size: pods.PodSize = pods.DEFAULT
    processors_per_gpu: int = 1
    capacity: pools.Capacity | None = None


Reader = Callable[[table.Table, str, Options], job.Trace]

READERS: dict[tuple[str, ...], Reader] = {
    schema.REQUIRED: lambda source, name, _: schema.read(source, name),
    openb.COLUMNS: lambda source, name, _: openb.read(source, name),
    elasticflow.COLUMNS: lambda source, name, o: elasticflow.read(source, name, o.pod_size),
    gavel.COLUMNS: lambda source, name, o: gavel.read(source, name, o.pod_size),
    azure.COLUMNS: lambda source, name, o: azure.read(source, name, o.capacity),
}
"""Reader by the columns that it needs."""


def read(path: Path, options: Options | None = None) -> job.Trace:
    """Read a trace; its name is that of the file without suffix.

    Raises
    ------
    TraceError
        Unreadable, of no known format, or refused by the reader of its format.
    """
    chosen = options or Options()
    file, name, data = str(path), path.name.removesuffix(".gz").partition(".")[0], content.read(path)
    if data.startswith(table.PARQUET_MAGIC) or path.suffix == ".parquet":
        return _of_table(table.of_bytes(file, data), name, chosen)
    first = content.text(file, data).lstrip("\n").partition("\n")[0]
    if first.startswith("{"):
        return mooncake.read(file, data, name, chosen.capacity)
    if first.startswith(";") or path.suffix == ".swf" or len(first.split()) == len(swf.FIELDS):
        return swf.read(swf.split(file, data), name, chosen.pod_size, chosen.processors_per_gpu)
    if "\t" in first:
        return gavel.read(gavel.raw(file, data), name, chosen.pod_size)
    return _of_table(table.of_bytes(file, data), name, chosen)


def _of_table(source: table.Table, name: str, options: Options) -> job.Trace:
    """Choose the reader whose columns the header comes nearest to; that reader then says what is missing."""
    have = set(source.frame.columns)
    share = {columns: len(have & set(columns)) / len(columns) for columns in READERS}
    nearest = max(share, key=lambda columns: share[columns])
    if share[nearest] < 0.5:
        known = "; ".join(",".join(columns) for columns in READERS)
        raise job.TraceError("no known trace has this header", file=source.file, line=1, remedy=f"known are {known}")
    return READERS[nearest](source, name, options)
