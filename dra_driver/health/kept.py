"""The file of the faults that only events tell, with the boot's identity: a restart keeps them, and a reboot does not."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from dra_driver import checkpoint
from dra_driver.health import model

log = structlog.get_logger()

MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the file has: faults that no reading tells, by GPU UUID."""

    boot_id: str
    faults: dict[str, list[model.Fault]]


class Faults:
    """The file of the faults that only events tell."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self.path, self.boot_id = path, boot_id
        self._written = msgspec.json.encode(_Kept(boot_id, {}))  # a file that is not there says the same

    def read(self) -> dict[str, model.Health]:
        """Return the faults of this boot; a file that cannot be read is told in the log and set aside."""
        try:
            self._written = self.path.read_bytes()[:MAX_FILE]
            found = msgspec.json.decode(self._written, type=_Kept)
        except FileNotFoundError:
            return {}
        except (msgspec.MsgspecError, OSError, UnicodeDecodeError) as error:
            log.error("faults seen before are unknown; the file is set aside", file=str(self.path), error=str(error))
            with contextlib.suppress(OSError):  # it is written over with the next fault
                self.path.replace(self.path.with_suffix(".corrupt"))
            return {}
        if found.boot_id != self.boot_id:
            return {}
        return {uuid: model.Health(uuid, {fault.key: fault for fault in some}) for uuid, some in found.faults.items()}

    def write(self, known: Mapping[str, model.Health]) -> None:
        """Keep the faults where they changed."""
        told = {
            uuid: [f for f in health.faults.values() if f.kind not in model.POLLED] for uuid, health in known.items()
        }
        data = msgspec.json.encode(_Kept(self.boot_id, {uuid: found for uuid, found in told.items() if found}))
        if data != self._written:
            checkpoint.replace_file(self.path, data, "faults")
            self._written = data
