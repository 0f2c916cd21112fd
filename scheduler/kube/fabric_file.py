"""Fabric files: where nodes stand, for clusters whose node labels don't say it.

apiVersion: muster.dev/v1alpha1
kind: FabricPaths
levels: [block, rack]
nodes:
  node-1: [b0, r3]
  node-2: [b0, ""]
"""

from pathlib import Path
from typing import Literal

import pydantic

from scheduler import bad_input, document
from scheduler.kube import places
from scheduler.model import fabric, levels

TAKEN = ("cluster", fabric.NODE_LEVEL, levels.NVLINK_LEVEL)


class FabricFileError(bad_input.BadInput):
    """A fabric file can't be read; the message names file, line and field."""


class _Document(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    apiVersion: Literal["muster.dev/v1alpha1"] = "muster.dev/v1alpha1"  # noqa: N815
    kind: Literal["FabricPaths"] = "FabricPaths"
    levels: list[str] = pydantic.Field(min_length=1, max_length=16)
    nodes: dict[str, list[str]]


def read(path: Path) -> places.Paths:
    """Read a fabric file, YAML or JSON.

    Returns
    -------
    Paths
        For `fleet.Options`; nodes that the file does not name stand at the root.

    Raises
    ------
    FabricFileError
    """
    found = document.read(path, FabricFileError)
    told = found.check(_Document)
    for i, level in enumerate(told.levels):
        if not level or level in TAKEN or level in told.levels[:i]:
            raise found.fault(("levels", i), f"levels need names that differ, and not {', '.join(TAKEN)}", level)
    for name, path_of in told.nodes.items():
        if len(path_of) != len(told.levels):
            problem = f"{len(path_of)} domains for {len(told.levels)} levels"
            raise found.fault(("nodes", name), problem, remedy='"" leaves a level out')
    return places.Paths(tuple(told.levels), told.nodes)
