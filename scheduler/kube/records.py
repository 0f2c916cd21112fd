"""Writes the GangPlacements of one leader: plans first of all, and what people are told."""

import asyncio
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from scheduler import faultpoint
from scheduler.apiserver import errors, paths
from scheduler.kube import gang_record, names, pens, plan, workload

Item = dict[str, Any]

SIZE = 1_400_000
"""Bytes of a record that are written: etcd takes 1.5 MiB in one request, and the status comes on top."""

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Records:
    """The records of one leader."""

    pen: pens.Pen
    trace: Callable[[workload.Workload], str] = lambda _: ""
    _turns: "weakref.WeakValueDictionary[str, asyncio.Lock]" = field(default_factory=weakref.WeakValueDictionary)

    async def write(self, gang: workload.Workload, new: plan.Plan) -> Item:
        """Write a plan down, and return its record; raises `pens.Refused` for one that no object can hold."""
        body = gang_record.body(gang, new, self.pen.epoch, self.trace(gang))
        _check_size(body, len(new.pods))
        async with self._turn(gang.identity):
            item = await self._put(body)
        faultpoint.reach("record-written")
        return item

    async def say(
        self, gang: workload.Workload, phase: gang_record.Phase, reason: str, text: str, offered: Item | None = None
    ) -> None:
        """Write the state of a gang without a plan, and what would let it start."""
        async with self._turn(gang.identity):
            item = await self._put(gang_record.body(gang, None, self.pen.epoch, self.trace(gang)))
            faultpoint.reach("state-recorded")
            await self.tell(item, phase, reason, text, offered)

    async def finish(self, gang: workload.Workload) -> None:
        """Delete the record of a gang that is gone: as it was read, so that a late request takes no later plan away."""
        async with self._turn(gang.identity):
            for _ in range(pens.TRIES):
                found = await self.read(gang.identity)
                if found is None:
                    return
                metadata = found["metadata"]
                try:
                    await self.pen.delete(_path(gang.identity), metadata["uid"], metadata["resourceVersion"])
                except errors.ApiError as error:
                    if error.missing:
                        return
                    if error.conflict:
                        continue
                    raise
                faultpoint.reach("record-deleted")
                return
        raise pens.Refused(f"{names.KIND} {gang.identity.key} changed under every try to delete it")

    async def read(self, identity: workload.Identity) -> Item | None:
        """Return a record, None where there is none.

        Raises
        ------
        Fenced
            It has the plan of a later leader.
        """
        try:
            found: Item = await self.pen.get(_path(identity))
        except errors.ApiError as error:
            if error.missing:
                return None
            raise
        self.pen.compare(gang_record.epoch(found))
        return found

    async def remark(self, identity: workload.Identity, phase: gang_record.Phase, reason: str, text: str) -> None:
        """Say something about a gang whose plan stands."""
        async with self._turn(identity):
            found = await self.read(identity)
            if found is not None:
                await self.tell(found, phase, reason, text)

    async def clear(self, identity: workload.Identity, why: str) -> None:
        """Take the plan off a record."""
        async with self._turn(identity):
            for _ in range(pens.TRIES):
                found = await self.read(identity)
                if found is None:
                    return
                found["spec"].pop("plan", None)
                try:
                    found = await self.pen.replace(_path(identity), found)
                except errors.ApiError as error:
                    if error.conflict or error.missing:
                        continue
                    raise
                faultpoint.reach("record-cleared")
                await self.tell(found, gang_record.Phase.WAITING, "RolledBack", why)
                return
        raise pens.Refused(f"{names.KIND} {identity.key} changed under every try")

    async def tell(
        self, item: Item, phase: gang_record.Phase, reason: str, text: str, offered: Item | None = None
    ) -> Item:
        """Write the status of a record that was just read or written, unless it says something else by now."""
        identity = workload.Identity(item["metadata"]["namespace"], item["metadata"]["name"], "")
        for _ in range(pens.TRIES):
            version = {"resourceVersion": item["metadata"]["resourceVersion"]}
            change = {"metadata": version, "status": gang_record.status(item, phase, reason, text, offered)}
            try:
                told: Item = await self.pen.patch(f"{_path(identity)}/status", change)
            except errors.ApiError as error:
                if error.missing:
                    return item
                if not error.conflict:
                    raise
                found = await self.read(identity)
                if found is None or found["spec"] != item["spec"]:
                    return item
                item = found
                continue
            faultpoint.reach("status-written")
            return told
        return item

    async def _put(self, body: Item) -> Item:
        """Create or replace a record; what others have in its metadata stays."""
        metadata, notes = body["metadata"], body["metadata"].get("annotations") or {}
        identity = workload.Identity(metadata["namespace"], metadata["name"], "")
        for turn in range(pens.TRIES):
            found = await self.read(identity) if turn else None  # most gangs are new: one request less for them
            try:
                if found is None:
                    collection = paths.of(names.API_VERSION, names.PLURAL, identity.namespace)
                    return dict(await self.pen.create(collection, body))
                found["spec"] = body["spec"]
                found["metadata"] |= {key: metadata[key] for key in ("ownerReferences",) if key in metadata}
                if notes:
                    found["metadata"]["annotations"] = (found["metadata"].get("annotations") or {}) | notes
                return dict(await self.pen.replace(_path(identity), found))
            except errors.ApiError as error:
                if not (error.conflict or error.exists or (error.missing and found is not None)):
                    raise
        raise pens.Refused(f"{names.KIND} {identity.key} changed under every try")

    def _turn(self, identity: workload.Identity) -> asyncio.Lock:
        """Return the lock of a record: what is said of a gang must not overwrite a plan that is written meanwhile."""
        return self._turns.setdefault(identity.key, asyncio.Lock())


def _path(identity: workload.Identity) -> str:
    return paths.of(names.API_VERSION, names.PLURAL, identity.namespace, identity.name)


def _check_size(body: Item, pods: int) -> None:
    size = len(orjson.dumps(body))
    if size > SIZE:
        raise pens.Refused(
            f"the record of a plan for {pods} pods has {size} bytes, and an object of the API at most {SIZE}: make several "
            "gangs of it, each a part that must start together"
        )
