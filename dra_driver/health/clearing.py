"""An operator's word that the faults of a GPU are over, as one file for each GPU in the driver's folder.

The driver takes a request with its next poll, or at its start, and writes into the file what it ended. The file stays, so
that a second instance, as there is during an upgrade, ends the faults that it knows too: each does so once for a request.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import msgspec
import structlog

from dra_driver import checkpoint
from dra_driver.health import model

log = structlog.get_logger()

FOLDER = "clear"
"""In the driver's."""
MAX_FILE = 1 << 16
UUID = re.compile(r"[A-Za-z0-9-]{1,96}")


class Request(msgspec.Struct, frozen=True):
    """What an operator asked for one GPU.

    Attributes
    ----------
    asked_ns : int
        Nanoseconds since 1970; tells the requests for one GPU apart.
    taken : bool
        A driver carried it out and has it on disk.
    ended, stay : tuple of str
        Sentences of the faults that ended then, and of those that the driver still sees.
    """

    gpu_uuid: str
    asked_ns: int
    taken: bool = False
    ended: tuple[str, ...] = ()
    stay: tuple[str, ...] = ()

    def told(self, name: str) -> str:
        """Return what an Event says of it; `name` is that of the GPU."""
        ended = "; ".join(self.ended) or "there was none"
        stay = f"; it still has: {'; '.join(self.stay)}" if self.stay else ""
        return f"{name} ({self.gpu_uuid}): an operator cleared its faults: {ended}{stay}"


class Folder:
    """The files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, gpu_uuid: str) -> Path:
        """Return where the request for a GPU is; raises `ValueError` for what is no UUID."""
        if not UUID.fullmatch(gpu_uuid):
            raise ValueError(f"{gpu_uuid!r} is not the UUID of a GPU")
        return self.path / f"{gpu_uuid}.json"

    def ask(self, gpu_uuid: str) -> Request:
        """Write a request; raises `OSError`."""
        request = Request(gpu_uuid, time.time_ns())
        self.path.mkdir(exist_ok=True)
        self.write(request)
        return request

    def write(self, request: Request) -> None:
        """Replace the file of a GPU."""
        checkpoint.replace_file(self.file(request.gpu_uuid), msgspec.json.encode(request), "faults")

    def read(self, gpu_uuid: str) -> Request | None:
        """Return the last request for a GPU; raises `ValueError` where the file is none, or `OSError`."""
        path = self.file(gpu_uuid)
        try:
            found = msgspec.json.decode(path.read_bytes()[:MAX_FILE], type=Request)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: {error}") from error
        if found.gpu_uuid != gpu_uuid:
            raise ValueError(f"{path}: it is about GPU {found.gpu_uuid}")
        return found

    def all(self) -> Iterator[Request]:
        """Yield the requests; what is none is told in the log and removed."""
        for path in sorted(self.path.glob("*.json")):
            try:
                found = self.read(path.stem)
            except ValueError as error:
                log.error("no request to clear faults; the file is removed", error=str(error))
                path.unlink(missing_ok=True)
                continue
            if found is not None:
                yield found


class Clearing:
    """One instance's part; make it before the faults are read from their file, which has what was taken till then."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._problem = folder, ""
        self._done = {(one.gpu_uuid, one.asked_ns) for one in self._listed() if one.taken}
        self._unanswered: list[Request] = []

    def new(self) -> list[Request]:
        """Return the requests that this instance has not carried out."""
        return [one for one in self._listed() if (one.gpu_uuid, one.asked_ns) not in self._done]

    def carry_out(self, request: Request, known: MutableMapping[str, model.Health]) -> None:
        """End the faults of a GPU that no reading tells."""
        before = known.get(request.gpu_uuid) or model.Health(request.gpu_uuid, {})
        after = known[request.gpu_uuid] = model.cleared(before)
        ended = tuple(fault.message for key, fault in sorted(before.faults.items()) if key not in after.faults)
        stay = tuple(fault.message for _, fault in sorted(after.faults.items()))
        log.warning("an operator clears faults", gpu=request.gpu_uuid, ended=ended, stay=stay)
        self._done.add((request.gpu_uuid, request.asked_ns))
        if not request.taken:
            self._unanswered.append(msgspec.structs.replace(request, taken=True, ended=ended, stay=stay))

    def answer(self) -> list[Request]:
        """Say in the files what was done, once the faults are kept without it; return what this instance said now."""
        said, left = [], []
        for taken in self._unanswered:
            try:
                now = self._folder.read(taken.gpu_uuid)
                if now is not None and (now.asked_ns, now.taken) == (taken.asked_ns, False):
                    self._folder.write(taken)
                    said.append(taken)
            except (OSError, ValueError) as error:
                self._say(error)
                left.append(taken)
        self._unanswered = left
        return said

    def _listed(self) -> list[Request]:
        try:
            return list(self._folder.all())
        except OSError as error:
            self._say(error)
            return []

    def _say(self, error: Exception) -> None:
        """Tell in the log what keeps requests from being read or answered, once as long as it is the same."""
        if str(error) != self._problem:
            log.error("requests to clear faults are not answered", error=str(error))
        self._problem = str(error)
