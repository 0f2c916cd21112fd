"""What the driver does at its start, and now and then, to bring records, files and hardware into agreement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import structlog

from dra_driver import checkpoint, claim, mig, prepared, sharing, state
from dra_driver.claim import ClaimUid

Object = state.Object  # inside the class, `state` is a field for the type checker

Tell = Callable[[str, str], None]
"""Reason and message of an Event about the node."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Recovery:
    """Brings one state into order."""

    state: state.State
    boot_id: str
    tell: Tell

    async def start(self) -> None:
        """Read the checkpoint, or set it aside, and make all prepared claims so again; before the kubelet may call."""
        await self._read()
        found = self.state.parts.store.read()
        if found.boot_id != self.boot_id:
            log.info("another boot of the node", before=found.boot_id, now=self.boot_id, claims=len(found.claims))
        await asyncio.gather(*(self._restore(uid) for uid in found.claims))
        if found.boot_id != self.boot_id:
            await self._note_boot()

    async def _note_boot(self) -> None:
        """Write the boot down; without it the next start brings everything into order once more, which does no harm."""
        try:
            await self.state.parts.store.change(lambda c: replace(c, boot_id=self.boot_id))
        except OSError as error:
            log.error("the boot is not noted in the checkpoint", error=str(error))
            self.tell("CheckpointNotWritten", f"{error}; claims cannot be prepared until it can be written")

    async def _read(self) -> None:
        store = self.state.parts.store
        try:
            store.read()
        except checkpoint.CheckpointError as error:
            kept = store.set_aside(prepared.Checkpoint(rebuilding=True))
            log.error("the checkpoint cannot be read", error=str(error), kept=str(kept))
            self.tell("CheckpointCorrupt", f"{error}; kept as {kept.name}; rebuilt from claims and MIG instances")
            return
        if not store.path.exists() and self.state.parts.cdi.claims():
            log.error("the checkpoint is gone, but there are CDI files of prepared claims", file=str(store.path))
            self.tell("CheckpointLost", f"{store.path} is gone; rebuilt from claims and MIG instances")
            await store.change(lambda c: replace(c, rebuilding=True))

    async def _restore(self, uid: ClaimUid) -> None:
        try:
            await self.state.restore(uid)
        except state.EXPECTED as error:
            log.error("a prepared claim cannot be restored", claim=uid, error=str(error))
            self.tell("RestoreFailed", f"claim {uid}: {error}")

    async def rebuild(self) -> None:
        """Take over the claims that the API server says are in use here; raises `UnreachableError`, to be called again."""
        if not self.state.parts.store.read().rebuilding:
            return
        objects = await self.state.parts.claims.allocated()
        # Where two claims name one device, the one with a CDI file had it before.
        had = self.state.parts.cdi.claims()
        ours = self._ours(objects)
        await asyncio.gather(*(self._take_over(reference) for reference in ours if reference.uid in had))
        await asyncio.gather(*(self._take_over(reference) for reference in ours if reference.uid not in had))
        await self.state.parts.store.change(lambda c: replace(c, rebuilding=False))
        log.info("the checkpoint is rebuilt", claims=len(self.state.parts.store.read().claims))

    def _ours(self, objects: Iterable[Object]) -> list[claim.Reference]:
        """Return the claims that have a device of this node."""
        pool = self.state.parts.machine.current().name
        found = []
        for obj in objects:
            metadata = obj["metadata"]
            results = obj["status"]["allocation"].get("devices", {}).get("results") or ()
            if any((row["driver"], row["pool"]) == (self.state.parts.driver, pool) for row in results):
                found.append(claim.reference(metadata["namespace"], metadata["name"], metadata["uid"]))
        return found

    async def _take_over(self, reference: claim.Reference) -> None:
        try:
            await self.state.prepare(reference, await self.state.wanted(reference), rebuilt=True)
        except state.EXPECTED as error:
            log.error("a claim cannot be taken over", claim=str(reference), error=str(error))
            self.tell("RebuildFailed", str(error))

    async def sweep(self) -> None:
        """Remove what no record asks for: files, MIG instances, and records whose claims are gone."""
        await self._sweep_claims()
        await self._sweep_files()
        await self._sweep_daemons()
        found = self.state.parts.store.read()
        if self.state.parts.dynamic_mig and not found.rebuilding:
            for gpu in self.state.parts.machine.current().gpus:
                if gpu.mig_enabled:
                    await self._sweep_gpu(gpu.uuid)

    async def _sweep_claims(self) -> None:
        """Unprepare claims that the kubelet may not know of, if the API server does not know them either."""
        for entry in list(self.state.parts.store.read().claims.values()):
            if entry.phase is prepared.Phase.COMPLETED and not entry.rebuilt:
                continue
            try:
                claim.read(await self.state.parts.claims.get(entry.reference), entry.reference, self.state.parts.driver)
            except claim.ClaimError as gone:
                log.info("a half prepared claim is gone", claim=str(entry.reference), why=str(gone))
                await self._unprepare(entry.uid)
            except state.UnreachableError as error:
                log.info("claims are not swept: the API server does not answer", error=str(error))
                return

    async def _unprepare(self, uid: ClaimUid) -> None:
        try:
            await self.state.unprepare(uid)
        except state.EXPECTED as error:
            log.error("a claim that is gone cannot be unprepared", claim=uid, error=str(error))

    async def _sweep_files(self) -> None:
        parts = self.state.parts
        for uid in sorted(parts.cdi.claims() | parts.metadata.claims()):
            async with parts.locks.claim(uid):  # a prepare may be about to write them
                if uid not in parts.store.read().claims:
                    log.info("files of no prepared claim are removed", claim=uid)
                    await asyncio.to_thread(self.state.remove_files, uid)
        await asyncio.to_thread(parts.cdi.remove_abandoned)

    async def _sweep_daemons(self) -> None:
        """End MPS control daemons that no record asks for, which also lets all processes use their GPUs again."""
        parts = self.state.parts
        entries = parts.store.read().claims.values()
        for name in parts.daemons.left({entry.mps.daemon for entry in entries if entry.mps is not None}):
            async with parts.locks.claim(name), parts.locks.devices([name]):  # named after a claim or a shared GPU
                if any(one.mps is not None and one.mps.daemon == name for one in parts.store.read().claims.values()):
                    continue
                log.warning("an MPS control daemon of no claim is ended", daemon=name)
                try:
                    await parts.daemons.stop(name)
                except sharing.SharingError as error:
                    log.error("an MPS control daemon of no claim stays", daemon=name, error=str(error))

    async def _sweep_gpu(self, gpu_uuid: str) -> None:
        """Remove MIG instances without a record; with the GPU's lock held no record can be about to be written."""
        parts = self.state.parts
        async with parts.locks.devices([gpu_uuid]):
            try:
                listed = await asyncio.to_thread(parts.hardware.instances, gpu_uuid)
                for orphan in mig.orphans(listed, parts.store.read()):
                    log.warning("a MIG instance of no claim is removed", gpu=gpu_uuid, instance=str(orphan))
                    await asyncio.to_thread(mig.remove, parts.hardware, orphan)
            except mig.HardwareError as error:
                log.error("MIG instances of no claim stay", gpu=gpu_uuid, error=str(error))
