"""What the driver does at its start, and now and then, to bring records, files and hardware into agreement.

Nothing in here ends the driver: what cannot be done now is told and tried again.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

import structlog

from dra_driver import checkpoint, claim, mig, prepared, programs, state, troubles
from dra_driver.claim import ClaimUid

log = structlog.get_logger()


class Recovery:
    """Brings one state into order."""

    def __init__(
        self,
        own: state.State,
        boot_id: str,
        tell: troubles.Tell,
        prepared_claim: Callable[[prepared.Claim], None] = lambda entry: None,
    ) -> None:
        self.state, self.boot_id, self.troubles, self._tell = own, boot_id, troubles.Troubles(tell), tell
        self._prepared = prepared_claim
        self._left: set[ClaimUid] | None = None  # claims that are not restored yet; None: not known
        self._read_before = False
        self._failures = self._pause = 0  # of rebuilding

    async def start(self) -> bool:
        """Read the checkpoint, or set it aside, and make all prepared claims so again, as far as it is possible now.

        Returns whether the checkpoint can be used.
        """
        return await self.troubles.attempt("checkpoint", "CheckpointUnusable", self._bring_up())

    async def mend(self) -> bool:
        """Do what is left of a start, or has become necessary since; return whether all records are there."""
        return await self.start() and await self._rebuilt()

    async def _rebuilt(self) -> bool:
        """Rebuild what is lost; after failures only at every 2nd to 16th call, since it lists the claims of the cluster."""
        if self._pause:
            self._pause -= 1
            return False
        done = await self.troubles.attempt("rebuild", "NotRebuilt", self.rebuild()) and self._complete()
        self._failures = 0 if done else min(4, self._failures + 1)
        self._pause = 0 if done else 2**self._failures - 1
        return done

    def _complete(self) -> bool:
        try:
            return not self.state.parts.store.read().rebuilding
        except (checkpoint.CheckpointError, OSError):
            return False

    async def _bring_up(self) -> None:
        await self._read()
        await self._restore()

    async def _read(self) -> None:
        """Set a file that is damaged or gone aside.

        Raises
        ------
        CheckpointError
            It cannot be replaced, so claims are neither prepared nor given back until it can.
        OSError
            It cannot be read at all.
        """
        store = self.state.parts.store
        if not store.expected and not store.path.exists() and self.state.parts.cdi.claims():
            store.expected = True  # there are files of prepared claims
        try:
            store.read()
            self._read_before = True
            return
        except checkpoint.CheckpointError as error:
            if self._read_before and isinstance(error, checkpoint.VersionError):
                raise  # a newer instance took over, and its file is as it should be
            problem = error
        log.error("the checkpoint is lost", error=str(problem))
        try:
            kept = await asyncio.to_thread(store.set_aside, prepared.Checkpoint(self.boot_id, rebuilding=True))
        except OSError as error:
            text = f"{problem}; it cannot be written anew: {error}; until then no claim is prepared or given back"
            raise checkpoint.CheckpointError(text) from error
        self._left = None
        if kept is not None:
            self._tell("CheckpointCorrupt", f"{problem}; kept as {kept.name}; rebuilt from claims and MIG instances")
        else:
            self._tell("CheckpointLost", f"{problem}; rebuilt from claims and MIG instances")

    async def _restore(self) -> None:
        """Make the claims that are recorded as prepared so again; those that fail are tried again with the next call."""
        if not self._hardware():
            return
        found = self.state.parts.store.read()
        if self._left is None:
            self._left = set(found.claims)
        done = await asyncio.gather(*(self._restored(uid) for uid in self._left))
        self._left = {uid for uid, restored in zip(self._left, done, strict=True) if not restored}
        if found.boot_id != self.boot_id and not self._left:
            log.info("another boot of the node", before=found.boot_id, now=self.boot_id, claims=len(found.claims))
            noted = self.state.parts.store.change(lambda c: replace(c, boot_id=self.boot_id))
            text = "{}; claims cannot be prepared until it can be written"
            await self.troubles.attempt("boot", "CheckpointNotWritten", noted, text)

    def _hardware(self) -> bool:
        """Return whether the devices of the node are known."""
        try:
            self.state.parts.machine.current()
        except mig.HardwareError as error:
            self.troubles.begin("hardware", "HardwareFailed", str(error))
            return False
        self.troubles.end("hardware")
        return True

    async def _restored(self, uid: ClaimUid) -> bool:
        async def restore() -> None:
            entry = await self.state.restore(uid)
            if entry is not None:
                self._prepared(entry)

        return await self.troubles.attempt(f"claim {uid}", "RestoreFailed", restore(), f"claim {uid}: {{}}")

    async def rebuild(self) -> None:
        """Take over the claims that the API server says are in use here, if the checkpoint was lost.

        Raises
        ------
        Exception
            One of `state.EXPECTED`; to be called again.
        """
        if not self.state.parts.store.read().rebuilding:
            return
        objects = await self.state.parts.claims.allocated()
        # Where two claims name one device, the one with a CDI file had it before.
        had = self.state.parts.cdi.claims()
        ours = self._ours(objects)
        first = await asyncio.gather(*(self._taken_over(reference) for reference in ours if reference.uid in had))
        await asyncio.gather(*(self._taken_over(reference) for reference in ours if reference.uid not in had))
        if not all(first):  # a pod may be using their devices: nothing must be swept away, nor be taken for complete
            return
        await self.state.parts.store.change(lambda c: replace(c, rebuilding=False))
        log.info("the checkpoint is rebuilt", claims=len(self.state.parts.store.read().claims))

    def _ours(self, objects: Iterable[state.Object]) -> list[claim.Reference]:
        """Return the claims that have a device of this node."""
        pool = self.state.parts.machine.current().name
        found = []
        try:
            for obj in objects:
                metadata = obj["metadata"]
                results = obj["status"]["allocation"].get("devices", {}).get("results") or ()
                if any((row["driver"], row["pool"]) == (self.state.parts.driver, pool) for row in results):
                    found.append(claim.reference(metadata["namespace"], metadata["name"], metadata["uid"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise state.UnreachableError(f"list of claims: not as the API has it: {error!r}") from error
        return found

    async def _taken_over(self, reference: claim.Reference) -> bool:
        async def take_over() -> None:
            self._prepared(await self.state.prepare(reference, await self.state.wanted(reference), rebuilt=True))

        text = f"{reference}: {{}}"
        return await self.troubles.attempt(f"claim {reference.uid}", "RebuildFailed", take_over(), text)

    async def sweep(self) -> None:
        """Remove what no record asks for: files, MIG instances, and records whose claims are gone."""
        await self._part("sweep of claims", self._sweep_claims)
        if not self._complete():
            return  # claims that are not known yet may have what seems to be left over
        await self._part("sweep of files", self._sweep_files)
        await self._part("sweep of MPS control daemons", self._sweep_daemons)
        if self.state.parts.dynamic_mig and self._hardware():
            for gpu in self.state.parts.machine.current().gpus:
                if gpu.mig_enabled:
                    await self._part(f"sweep of GPU {gpu.uuid}", functools.partial(self._sweep_gpu, gpu.uuid))

    async def _part(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        await self.troubles.attempt(what, "SweepFailed", work(), f"{what}: {{}}")

    async def _sweep_claims(self) -> None:
        """Unprepare claims that the kubelet may not know of, if the API server does not know them either."""
        for entry in list(self.state.parts.store.read().claims.values()):
            if entry.phase is prepared.Phase.COMPLETED and not entry.rebuilt:
                continue
            try:
                claim.read(await self.state.parts.claims.get(entry.reference), entry.reference, self.state.parts.driver)
            except claim.ClaimError as gone:
                log.info("a half prepared claim is gone", claim=str(entry.reference), why=str(gone))
                text = f"claim {entry.uid}: {{}}"
                await self.troubles.attempt(f"claim {entry.uid}", "SweepFailed", self.state.unprepare(entry.uid), text)
            except state.UnreachableError as error:
                log.info("claims are not swept: the API server does not answer", error=str(error))
                return

    async def _sweep_files(self) -> None:
        """Remove files of claims without a record; one that cannot be removed holds up no other."""
        parts, failed = self.state.parts, []
        for uid in sorted(parts.cdi.claims() | parts.metadata.claims()):
            async with parts.locks.claim(uid):  # a prepare may be about to write them
                if uid in parts.store.read().claims:
                    continue
                log.info("files of no prepared claim are removed", claim=uid)
                try:
                    await asyncio.to_thread(self.state.remove_files, uid)
                except OSError as error:
                    failed.append(error)
        if failed:
            raise failed[0]
        await asyncio.to_thread(parts.cdi.remove_abandoned)
        await asyncio.to_thread(parts.store.remove_abandoned)

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
                except programs.SharingError as error:
                    log.error("an MPS control daemon of no claim stays", daemon=name, error=str(error))

    async def _sweep_gpu(self, gpu_uuid: str) -> None:
        """Remove MIG instances without a record; with the GPU's lock held no record can be about to be written."""
        parts = self.state.parts
        async with parts.locks.devices([gpu_uuid]):
            listed = await self.state.in_thread(parts.hardware.instances, gpu_uuid)
            for orphan in mig.orphans(listed, parts.store.read()):
                log.warning("a MIG instance of no claim is removed", gpu=gpu_uuid, instance=str(orphan))
                await self.state.in_thread(mig.remove, parts.hardware, orphan)
