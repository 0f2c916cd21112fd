"""The file of the faults, with the boot's identity: a restart keeps those that only events tell, and a reboot does not.

Those that readings tell are in it for the command ``health`` alone.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from dra_driver import checkpoint
from dra_driver.health import model, places, taints

log = structlog.get_logger()

FILE = "faults.json"
"""In the driver's folder."""
MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """What the file has: faults by GPU UUID."""

    boot_id: str
    faults: dict[str, list[model.Fault]]

    def known(self, *, told_by_readings: bool) -> dict[str, model.Health]:
        """Return the health of the GPUs, with or without what readings tell."""
        return {
            uuid: model.Health(uuid, {f.key: f for f in some if told_by_readings or f.kind not in model.POLLED})
            for uuid, some in self.faults.items()
        }


def decoded(data: bytes) -> Kept:
    """Return what the file has; raises `ValueError`."""
    return msgspec.json.decode(data[:MAX_FILE], type=Kept)


class Faults:
    """The file, as the driver keeps it."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self.path, self.boot_id = path, boot_id
        self._written = msgspec.json.encode(Kept(boot_id, {}))  # a file that is not there says the same

    def read(self) -> dict[str, model.Health]:
        """Return the faults of this boot that no reading tells; a file that cannot be read is told in the log and set aside."""
        try:
            self._written = self.path.read_bytes()
            found = decoded(self._written)
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            log.error("faults seen before are unknown; the file is set aside", file=str(self.path), error=str(error))
            with contextlib.suppress(OSError):  # it is written over with the next fault
                self.path.replace(self.path.with_suffix(".corrupt"))
            return {}
        if found.boot_id != self.boot_id:
            return {}
        return {uuid: one for uuid, one in found.known(told_by_readings=False).items() if one.faults}

    def write(self, known: Mapping[str, model.Health]) -> None:
        """Keep the faults where they changed."""
        told = {uuid: list(health.faults.values()) for uuid, health in known.items() if health.faults}
        data = msgspec.json.encode(Kept(self.boot_id, told))
        if data != self._written:
            checkpoint.replace_file(self.path, data, "faults")
            self._written = data


class Files:
    """What a restart needs: the faults, and since when each taint is there.

    Attributes
    ----------
    problem : str
        Why the files are not as they should be.
    """

    def __init__(self, faults: Faults, times: taints.Times) -> None:
        self._faults, self._times, self.problem = faults, times, ""

    def keep(self, known: Mapping[str, model.Health]) -> Mapping[str, Sequence[Mapping[str, str]]]:
        """Return the taints by place, and write the files."""
        found = self._times.taints(places.split(known))
        self.write(known)
        return found

    def write(self, known: Mapping[str, model.Health]) -> None:
        """Write what changed; what a full disk does not take is told, and has to be tried again."""
        problems = []
        writes: tuple[Callable[[], None], ...] = (functools.partial(self._faults.write, known), self._times.write)
        for write in writes:
            try:
                write()
            except OSError as error:
                problems.append(str(error))
        problem = "; ".join(problems)
        if problem and problem != self.problem:
            log.error("a restart would forget faults", error=problem)
        self.problem = problem
