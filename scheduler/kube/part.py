"""A ResourceSlice, kept as what its node shares with all nodes of its shape and the little that is its own.

Nodes of one shape publish the same devices but for identities and taints. The devices without those are kept once for all
nodes, as JSON; so 5,000 slices take little memory, and each shape is decoded once.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import orjson

from scheduler.model import published, slice_reader

Item = Mapping[str, Any]

IDENTITIES = ("uuid", "parentUUID", "nvlinkDomain")
"""Attributes that differ from node to node; a selector can't be translated where it reads one."""

MASKED = {"string": "?"}
"""Stands for an identity in what nodes share."""

NOTHING = b'["",[]]'
BARRING = ("NoSchedule", "NoExecute")
MAX_BYTES = 2 << 20
"""Devices of one slice; the largest that the API takes are well below."""


@dataclass(frozen=True, slots=True)
class Taint:
    """A device taint that keeps pods off or ends them."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True)
class Content:
    """Devices as published, less identities and taints; equal for slices of nodes of one shape.

    Attributes
    ----------
    digest : bytes
        Of `data`; all that is compared.
    data : bytes
        JSON: the node annotation and the device entries.
    """

    digest: bytes
    data: bytes = field(compare=False, repr=False)

    def entries(self) -> list[dict[str, Any]]:
        """Return the device entries; decodes every time."""
        entries: list[dict[str, Any]] = orjson.loads(self.data)[1]
        return entries

    def annotation(self) -> str:
        """Return the driver's facts about the node as a whole, "" for none."""
        return str(orjson.loads(self.data)[0])


@dataclass(frozen=True, slots=True)
class Part:
    """One slice.

    Attributes
    ----------
    version : str
        resourceVersion; no part of equality.
    node : str
        "" for slices that are not of one node.
    count : int
        Slices of the pool's generation.
    identities : tuple of (device, attribute, value)
    taints : tuple of (device, Taint)
        Effects NoSchedule and NoExecute only.
    problem : str
        Why the slice can't be read; "" for none.
    """

    name: str
    driver: str
    pool: str
    node: str
    generation: int
    count: int
    content: Content
    identities: tuple[tuple[str, str, str], ...] = ()
    taints: tuple[tuple[str, Taint], ...] = ()
    problem: str = ""
    version: str = field(default="", compare=False)


def read(item: Item) -> Part:
    """Project a ResourceSlice of the API; one that makes no sense has a `problem` and is no error.

    Raises
    ------
    ValueError
        Not even a name.
    """
    metadata, spec = item["metadata"], item.get("spec") or {}
    pool = spec.get("pool") or {}
    generation, count = pool.get("generation"), pool.get("resourceSliceCount")
    bare = Part(
        name=str(metadata["name"]),
        driver=str(spec.get("driver", "")),
        pool=str(pool.get("name", "")),
        node=str(spec.get("nodeName") or ""),
        generation=generation if type(generation) is int else -1,
        count=count if type(count) is int else 0,
        content=_content(NOTHING),
        version=str(metadata.get("resourceVersion", "")),
    )
    try:
        return _filled(bare, item)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return replace(bare, problem=f"slice {bare.name}: {type(error).__name__}: {error}")


def pool_slices(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return slices as the API has them, with masked identities and without taints, for the codec."""
    return [
        {
            "metadata": {"name": part.name, "annotations": {slice_reader.ANNOTATION: text} if text else {}},
            "spec": {
                "driver": part.driver,
                "nodeName": part.node,
                "pool": {"name": part.pool, "generation": part.generation, "resourceSliceCount": part.count},
                "devices": devices,
            },
        }
        for part in parts
        for text, devices in (orjson.loads(part.content.data),)
    ]


def newest(parts: Sequence[Part]) -> list[Part]:
    """Return the slices of a pool's highest generation, sorted by name.

    Raises
    ------
    SliceError
        One of them has a problem, or slices are missing.
    """
    generation = max(part.generation for part in parts)
    current = sorted((part for part in parts if part.generation == generation), key=lambda part: part.name)
    for part in current:
        if part.problem:
            raise published.SliceError(part.problem)
    if len(current) != current[0].count:
        pool, count = current[0].pool, current[0].count
        raise published.SliceError(f"pool {pool}: generation {generation} has {len(current)} of {count} slices")
    return current


def barring(entry: Item) -> Iterator[Taint]:
    """Yield the taints of a device entry, or of a taint rule, that keep pods off."""
    for one in entry.get("taints") or ():
        if one.get("effect") in BARRING:
            yield Taint(one["key"], one.get("value") or "", one["effect"])


def _filled(bare: Part, item: Item) -> Part:
    """Add what a slice says of its devices, taken apart."""
    annotations = item["metadata"].get("annotations") or {}
    hidden = (*IDENTITIES, *(f"{bare.driver}/{name}" for name in IDENTITIES))
    entries: list[Item] = []
    identities: list[tuple[str, str, str]] = []
    taints: list[tuple[str, Taint]] = []
    for entry in item["spec"].get("devices") or ():
        shared, name = {key: value for key, value in entry.items() if key != "taints"}, entry["name"]
        body = entry.get("basic", entry)  # v1beta1 has one level more
        attributes = dict(body.get("attributes") or {})
        for key in hidden:
            if key in attributes:
                identities.append((name, key.rpartition("/")[2], _text(name, key, attributes[key])))
                attributes[key] = MASKED
        kept = {"attributes": attributes}
        shared |= {"basic": {**body, **kept, "taints": None}} if body is not entry else kept
        entries.append(shared)
        taints.extend((name, taint) for taint in barring(body))
    data = orjson.dumps([str(annotations.get(slice_reader.ANNOTATION, "")), entries])
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes of devices, at most {MAX_BYTES} are read")
    return replace(bare, content=_content(data), identities=tuple(identities), taints=tuple(taints))


def _text(name: str, key: str, value: Item) -> str:
    text = value.get("string")
    if not isinstance(text, str):
        raise ValueError(f"device {name}: attributes.{key}: expected string, got {value!r}")
    return text


def _content(data: bytes) -> Content:
    return _interned(hashlib.blake2b(data, digest_size=16).digest(), data)


@lru_cache(maxsize=4096)
def _interned(digest: bytes, data: bytes) -> Content:
    """Return the one value for equal content."""
    return Content(digest, data)
