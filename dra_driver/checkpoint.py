"""The file that remembers what is prepared: versioned, checked, replaced atomically, shared by two driver instances.

During an upgrade the kubelet may prepare through one instance and unprepare through the other. So the truth is on disk:
every change reads the file under a lock, and changes that wait for one write go to disk together.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import orjson

from dra_driver import faultpoint, prepared

VERSION = 1
MAX_BYTES = 16 * 1024 * 1024  # a node has room for some hundred claims of a few kilobytes
ABANDONED_S = 60.0

_INSTANCE = secrets.token_hex(4)  # two instances in two pods may have one process id

Change = Callable[[prepared.Checkpoint], prepared.Checkpoint]
_Signature = tuple[int, int, int]


class CheckpointError(ValueError):
    """The file is not what a driver of this version writes; the message names it."""


class VersionError(CheckpointError):
    """The file is of another version; a newer driver may be writing it."""


@dataclass(frozen=True, slots=True)
class _File:
    """The document on disk; the checksum is over the exact bytes of the contents."""

    version: int
    checksum: str
    contents: msgspec.Raw


def encode(checkpoint: prepared.Checkpoint) -> bytes:
    """Return the bytes of a checkpoint file."""
    contents = msgspec.json.encode(checkpoint)
    return b'{"version":%d,"checksum":"%s","contents":%s}\n' % (VERSION, _checksum(contents).encode(), contents)


def decode(data: bytes, path: Path) -> prepared.Checkpoint:
    """Read the bytes of a checkpoint file.

    Raises
    ------
    CheckpointError
    """
    try:
        document = msgspec.json.decode(data, type=_File)
        if document.version != VERSION:
            raise VersionError(f"{path}: version {document.version}, this driver reads version {VERSION}")
        contents = bytes(document.contents)
        if _checksum(contents) != document.checksum:
            raise CheckpointError(f"{path}: the checksum does not fit the contents")
        return msgspec.json.decode(contents, type=prepared.Checkpoint)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _checksum(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


def boot_id(root: Path) -> str:
    """Return the identity of this boot of the node."""
    return (root / "proc/sys/kernel/random/boot_id").read_text().strip()


def replace_file(path: Path, data: bytes, point: str, *, durable: bool = True, mode: int = 0o600) -> None:
    """Write a file so that a reader, or the next boot, finds the old contents or the new ones.

    The temporary name begins with a dot and ends in ``.tmp``: readers of CDI folders pass it over.
    """
    temporary = path.with_name(f".{path.name}.{_INSTANCE}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            _write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        faultpoint.reach(f"{point}-temporary-written")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # a full disk is told without a name
        raise
    if durable:
        sync_folder(path.parent)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove temporary files of `replace_file` that a crash left; another instance may be writing a younger one."""
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class _Waiting:
    """A change on its way to the disk."""

    change: Change
    done: asyncio.Future[prepared.Checkpoint]


class Store:
    """The checkpoint of one state folder.

    `change` is the only way to alter it. The file is read again whenever another instance replaced it.

    Attributes
    ----------
    expected : bool
        The file was there, or must have been: that it is missing means that records are lost, not that there are none.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "checkpoint.json"
        self._lock_path = folder / "checkpoint.lock"
        # One attribute, set in one step: both the loop and the writing thread use it.
        self._seen: tuple[_Signature | None, prepared.Checkpoint] = (None, prepared.Checkpoint())
        self._queue: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self.expected = False
        self.writes = 0

    def read(self) -> prepared.Checkpoint:
        """Return what is on disk; a file that was never written is an empty checkpoint, one that is gone is an error.

        Raises
        ------
        CheckpointError
        OSError
        """
        try:
            signature = self._signature()
        except FileNotFoundError:
            if self.expected:
                raise CheckpointError(f"{self.path}: the file is gone") from None
            return prepared.Checkpoint()
        self.expected = True
        known, checkpoint = self._seen
        if signature != known:
            if signature[1] > MAX_BYTES:
                raise CheckpointError(f"{self.path}: {signature[1]} bytes, at most {MAX_BYTES} are expected")
            checkpoint = decode(self.path.read_bytes(), self.path)
            self._seen = signature, checkpoint
        return checkpoint

    def _signature(self) -> _Signature:
        """Each version is another file, renamed into place: inode number, size and time tell it from the last."""
        found = self.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    async def change(self, change: Change) -> prepared.Checkpoint:
        """Apply a change to what is on disk and return once the result is there.

        What the change raises is raised here and leaves the file as it was. Changes that are asked for while a write
        is under way share the next write.
        """
        waiting = _Waiting(change, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._drain())
        return await asyncio.shield(waiting.done)

    async def settle(self) -> None:
        """Wait until all changes are on disk."""
        while self._writer is not None and not self._writer.done():
            await asyncio.wait([self._writer])

    async def _drain(self) -> None:
        while self._queue:
            batch, self._queue = self._queue, []
            await asyncio.to_thread(self._write, batch, asyncio.get_running_loop())

    def _write(self, batch: list[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        """Apply a batch under the lock of the file; runs in a thread, since it waits for the disk."""
        try:
            with self._locked():
                before = self.read()
                after, applied = before, []
                for waiting in batch:
                    try:
                        after = waiting.change(after)
                        applied.append(waiting)
                    except Exception as error:
                        loop.call_soon_threadsafe(_fail, waiting.done, error)
                if after != before:
                    self._put(after)
        except BaseException as error:
            for waiting in batch:
                loop.call_soon_threadsafe(_fail, waiting.done, error)
            if not isinstance(error, Exception):
                raise
            return
        for waiting in applied:
            loop.call_soon_threadsafe(_succeed, waiting.done, after)

    def _put(self, checkpoint: prepared.Checkpoint) -> None:
        replace_file(self.path, encode(checkpoint), "checkpoint")
        self.writes += 1
        self._seen, self.expected = (self._signature(), checkpoint), True
        faultpoint.reach("checkpoint-written")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def set_aside(self, fresh: prepared.Checkpoint) -> Path | None:
        """Put another checkpoint in the place of a file that is damaged or gone; return where the damaged one is kept.

        A crash or a full disk on the way leaves it where it is: a later start must not take the node for an empty one.
        Nothing is done where another instance was faster.
        """
        with self._locked():
            try:
                self.read()
                return None
            except CheckpointError:
                kept = self._keep()
            try:
                self._put(fresh)
            except OSError:
                if kept is not None:
                    kept.unlink()
                raise
        return kept

    def _keep(self) -> Path | None:
        """Give the file a second name."""
        kept = self.path.with_name(f"{self.path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        kept.unlink(missing_ok=True)
        try:
            os.link(self.path, kept)
        except FileNotFoundError:
            return None
        return kept

    def remove_abandoned(self) -> None:
        """Remove what a crash left half written."""
        remove_abandoned(self.path.parent, f".{self.path.name}.*.tmp")


def _succeed(done: asyncio.Future[prepared.Checkpoint], result: prepared.Checkpoint) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[prepared.Checkpoint], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # seen: the caller may have been cancelled meanwhile


def show(path: Path) -> bytes:
    """Return a checkpoint file for people, whether or not its checksum fits."""
    return orjson.dumps(orjson.loads(path.read_bytes()), option=orjson.OPT_INDENT_2)
