"""What is wrong with each GPU, from events and readings: pure, the time is passed in.

A reading replaces what the one before it said, so a state that ends clears its fault. Faults that only an event tells
last until the GPU was reset (`reset`) or an operator says so (`cleared`), XIDs of programs until `FADE_S` later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dra_driver.health.severity import Severity, of_xid
from dra_driver.probe import interface

FADE_S = 300.0
DOMAIN = "gpu.muster.dev"
EFFECTS = {Severity.INFORM: "None", Severity.DEGRADED: "NoSchedule", Severity.FATAL: "NoExecute"}
POLLED = frozenset({"gpu-lost", "ecc", "row-remap", "recovery-action", "nvlink", "fabric", "unmonitored"})
"""Kinds of faults that readings tell, and end."""

TOLD = {
    "ecc-double-bit": ("ecc-event", "uncorrected", Severity.DEGRADED, "uncorrectable ECC error"),
    "ecc-storm": ("ecc-event", "storm", Severity.DEGRADED, "storm of corrected ECC errors"),
    "row-retirement": ("row-event", "retired", Severity.INFORM, "memory was retired"),
    "row-retirement-failure": ("row-event", "failed", Severity.FATAL, "memory could not be retired"),
    "poison": ("poison", "contained", Severity.DEGRADED, "poisoned memory was used, which ended its program"),
    "fatal-poison": ("poison", "fatal", Severity.FATAL, "poisoned memory was used, which ended all programs"),
}
"""Kind, value, severity and text of the faults that events tell, beside XIDs and a GPU that is gone."""
QUIET = frozenset({"ecc-single-bit", "mig-config", "recovery-action"})
"""Events that are no fault: what was corrected, what we do ourselves, and what the readings tell."""
FABRIC_COMPLETED = 3
FABRIC_MASK = {0: "bandwidth is degraded", 2: "routes recover", 4: "routes are unhealthy", 6: "accesses timed out"}
"""Of NVML's mask by the shift of its two bits: 1 where it is so, 2 where not, 0 where nothing is told."""
ROUTES_UNHEALTHY, CONFIGURATION, CONFIGURED = 4, 8, (0, 1)
"""Shifts of the mask; the configuration has four bits, of which other values name what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes
    ----------
    since_s : float
        Seconds since 1970; the fault's taint has this time as long as the fault lasts.
    part : (start, size) or None
        The memory slices of the MIG instance that it is about; None for the whole GPU.
    """

    kind: str
    value: str
    severity: Severity
    since_s: float
    message: str
    part: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """Return what a GPU has one of at a time."""
        return self.kind if self.part is None else f"{self.kind} {self.part[0]}+{self.part[1]}"

    def touches(self, start: int, size: int) -> bool:
        """Tell whether some memory slices are concerned."""
        return self.part is None or (self.part[0] < start + size and start < sum(self.part))

    @property
    def taint(self) -> tuple[str, str, str]:
        """Return key, value and effect."""
        return f"{DOMAIN}/{self.kind}", self.value, EFFECTS[self.severity]


@dataclass(frozen=True, slots=True)
class Health:
    """The faults of one GPU by their keys; never changed in place."""

    gpu_uuid: str
    faults: Mapping[str, Fault]
    ecc_uncorrected: int | None = None

    @property
    def healthy(self) -> bool:
        return all(fault.severity is Severity.INFORM for fault in self.faults.values())

    def of(self, start: int, size: int) -> Health:
        """Return the health of some memory slices."""
        faults = {key: fault for key, fault in self.faults.items() if fault.touches(start, size)}
        return Health(self.gpu_uuid, faults, self.ecc_uncorrected)

    @property
    def message(self) -> str:
        """Return the worst first, one sentence each."""
        worst = sorted(self.faults.values(), key=lambda fault: (-fault.severity, fault.kind))
        return "; ".join(fault.message for fault in worst)


def event(health: Health, news: interface.Event, now_s: float, part: tuple[int, int] | None = None) -> Health:
    """Return the health after an event; `part` is where the MIG instance lies that it names."""
    if news.kind == "xid":
        where = "" if part is None else f"MIG instance {news.gpu_instance} of "
        text = f"XID {news.data} on {where}GPU {health.gpu_uuid}"
        return _with(health, Fault("xid", str(news.data), of_xid(news.data), now_s, text, part))
    if news.kind in TOLD:
        kind, value, severity, text = TOLD[news.kind]
        return _with(health, Fault(kind, value, severity, now_s, f"{text} on GPU {health.gpu_uuid}"))
    if news.kind == "unavailable":
        return _with(health, Fault("gpu-lost", "", Severity.FATAL, now_s, f"GPU {health.gpu_uuid} is unavailable"))
    return health


def reading(health: Health, seen: interface.Reading, now_s: float) -> Health:
    """Return the health after a poll: what it does not show any more is over."""
    shown = {fault.kind: fault for fault in _faults(health, seen, now_s)}
    kept = {kind: fault for kind, fault in health.faults.items() if _lasts(fault, now_s) or _untold(kind, seen)}
    for kind, fault in shown.items():
        old = health.faults.get(kind)
        kept[kind] = old if old is not None and old.taint == fault.taint else fault
    ecc = health.ecc_uncorrected if seen.ecc_uncorrected is None else seen.ecc_uncorrected
    return Health(health.gpu_uuid, kept, ecc)


def polled(health: Health, seen: interface.Reading, now_s: float) -> Health:
    """Return the health after a poll; where it shows that a reset is over, faults told by events are over too."""
    back = "gpu-lost" in health.faults and not seen.lost
    recovered = "recovery-action" in health.faults and seen.recovery_action == 0
    return reading(reset(health) if back or recovered else health, seen, now_s)


def reset(health: Health) -> Health:
    """Return the health after the GPU was reset or the node booted: only new readings count."""
    return Health(health.gpu_uuid, {})


def cleared(health: Health) -> Health:
    """Return the health after an operator said that what happened is over: what readings tell stays."""
    return Health(health.gpu_uuid, {k: f for k, f in health.faults.items() if f.kind in POLLED}, health.ecc_uncorrected)


def _with(health: Health, fault: Fault) -> Health:
    """Add a fault; a lesser one never hides a worse one of its kind, and the same one keeps its time."""
    old = health.faults.get(fault.key)
    if old is not None and (old.severity > fault.severity or old.taint == fault.taint):
        return health
    return Health(health.gpu_uuid, {**health.faults, fault.key: fault}, health.ecc_uncorrected)


def _lasts(fault: Fault, now_s: float) -> bool:
    if fault.kind in POLLED:
        return False
    return fault.severity is not Severity.INFORM or now_s - fault.since_s < FADE_S


def _untold(kind: str, seen: interface.Reading) -> bool:
    """Tell whether a call failed that would say if a fault is over: silence is no recovery."""
    if not seen.failing or seen.lost:
        return False
    told: dict[str, tuple[object, ...]] = {
        "row-remap": (seen.remap_pending, seen.remap_failed, seen.retired_pages_pending),
        "recovery-action": (seen.recovery_action,),
        "fabric": (seen.fabric_state, seen.fabric_health),
        "nvlink": (None,) if "reading" in seen.failing else ((),),
    }
    return kind in told and all(value is None for value in told[kind])


def _faults(health: Health, seen: interface.Reading, now_s: float) -> Iterator[Fault]:
    name = f"GPU {seen.gpu_uuid}"
    if seen.lost:
        yield Fault("gpu-lost", "", Severity.FATAL, now_s, f"{name} is lost: it fell off the bus")
        return
    before = health.ecc_uncorrected
    grown = before is not None and (seen.ecc_uncorrected or 0) > before
    if grown or ("ecc" in health.faults and (seen.ecc_uncorrected is None or seen.ecc_uncorrected == before)):
        yield Fault("ecc", "uncorrected", Severity.DEGRADED, now_s, f"{name} has new uncorrectable ECC errors")
    if seen.remap_failed:
        yield Fault("row-remap", "failed", Severity.FATAL, now_s, f"{name} has no spare rows left for remapping")
    elif seen.remap_pending or seen.retired_pages_pending:
        yield Fault("row-remap", "pending", Severity.DEGRADED, now_s, f"{name} must be reset to remap rows")
    if seen.recovery_action:
        text = f"{name} asks for recovery action {seen.recovery_action}"
        yield Fault("recovery-action", str(seen.recovery_action), Severity.DEGRADED, now_s, text)
    if seen.links_down:
        links = ", ".join(map(str, seen.links_down))
        yield Fault("nvlink", "down", Severity.DEGRADED, now_s, f"{name}: NVLinks {links} are down")
    value, details = _fabric(seen)
    if value:
        severity = Severity.INFORM if value == "limited" else Severity.DEGRADED
        yield Fault("fabric", value, severity, now_s, f"{name}: NVLink fabric is {value}{details}")
    if seen.failing:
        calls = ", ".join(f"{call}: {reason}" for call, reason in sorted(seen.failing.items()))
        yield Fault("unmonitored", "", Severity.INFORM, now_s, f"{name} does not answer ({calls})")


def _fabric(seen: interface.Reading) -> tuple[str, str]:
    """Return what is wrong with the fabric, "" if nothing is, and what its mask says."""
    mask = seen.fabric_mask or 0
    found = [text for shift, text in FABRIC_MASK.items() if mask >> shift & 3 == 1]
    configuration = mask >> CONFIGURATION & 15
    if configuration not in CONFIGURED:
        found.append(f"its configuration is wrong ({configuration})")
    details = f" ({', '.join(found)})" if found else ""
    if seen.fabric_state in (1, 2):
        return "not-ready", details
    if seen.fabric_state == FABRIC_COMPLETED and seen.fabric_status:
        return "failed", f" (status {seen.fabric_status})"
    if seen.fabric_health == 2 or mask >> ROUTES_UNHEALTHY & 3 == 1 or configuration not in CONFIGURED:
        return "unhealthy", details
    return ("limited", details) if seen.fabric_health == 3 or found else ("", "")
