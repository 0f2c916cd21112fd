"""The state of the stand-in library: one file of fixed layout that the library and the tests map into memory.

The C header is made from these structures, so that both sides cannot differ.
"""

import contextlib
import ctypes
import fcntl
import mmap
from collections.abc import Iterator
from ctypes import c_char, c_int32, c_uint32, c_uint64
from pathlib import Path

MAX_GPUS, MAX_LINKS, MAX_PROFILES, MAX_INSTANCES, MAX_EVENTS, MAX_RULES, MAX_PROCESSES = 16, 36, 18, 16, 256, 32, 32
MAGIC = 0x4D555354


class Rule(ctypes.Structure):
    """What one function does: fail with `code`, be slow by `ms`; `gpu` -1 is any GPU."""

    _fields_ = [("name", c_char * 64), ("gpu", c_int32), ("code", c_int32), ("ms", c_uint32), ("left", c_int32)]


class Event(ctypes.Structure):
    _fields_ = [("gpu", c_uint32), ("gi", c_uint32), ("ci", c_uint32), ("pad", c_uint32), ("type", c_uint64),
                ("data", c_uint64)]  # fmt: skip


class Link(ctypes.Structure):
    _fields_ = [("active", c_uint32), ("remote_type", c_uint32), ("domain", c_uint32), ("bus", c_uint32),
                ("device", c_uint32), ("version", c_uint32), ("mbps", c_uint32)]  # fmt: skip


class Profile(ctypes.Structure):
    _fields_ = [("number", c_uint32), ("id", c_uint32), ("slices", c_uint32), ("count", c_uint32), ("sms", c_uint32),
                ("ce", c_uint32), ("dec", c_uint32), ("enc", c_uint32), ("jpeg", c_uint32), ("ofa", c_uint32),
                ("media", c_uint32), ("width", c_uint32), ("places", c_uint32), ("starts", c_uint32 * 8),
                ("memory_mib", c_uint64), ("name", c_char * 96)]  # fmt: skip


class Instance(ctypes.Structure):
    """`id` is the place in the array; `ci` is -1 without a compute instance."""

    _fields_ = [("used", c_uint32), ("profile", c_uint32), ("start", c_uint32), ("size", c_uint32), ("ci", c_int32),
                ("uuid", c_char * 96)]  # fmt: skip


class Process(ctypes.Structure):
    _fields_ = [("pid", c_uint32), ("gi", c_uint32), ("bytes", c_uint64)]


class Gpu(ctypes.Structure):
    _fields_ = [("uuid", c_char * 96), ("name", c_char * 96), ("serial", c_char * 32),
                *((name, c_uint32) for name in (
                    "domain", "bus", "device", "pci_id", "minor", "architecture", "brand", "cc_major", "cc_minor",
                    "numa", "lost", "links", "profiles", "mig_capable", "mig_current", "mig_pending",
                    "clique", "fabric_state", "fabric_status", "fabric_mask", "fabric_health", "ecc", "remap_corrected",
                    "remap_uncorrected", "remap_pending", "remap_failed", "retired_pending", "gpu_percent",
                    "memory_percent", "power_mw", "celsius", "compute_mode", "recovery", "processes", "compute_slices",
                    "addressing", "sm_mhz", "memory_mhz", "memory_celsius", "pcie_replays", "pcie_tx", "pcie_rx",
                    "encoder_percent", "decoder_percent", "licences", "vgpu_feature", "vgpu_licensed",
                )),
                ("fabric", ctypes.c_uint8 * 16), ("memory_total", c_uint64), ("memory_used", c_uint64),
                ("energy_mj", c_uint64), ("pcie_tx_bytes", c_uint64), ("pcie_rx_bytes", c_uint64),
                ("nvlink_tx_kib", c_uint64), ("nvlink_rx_kib", c_uint64), ("nvlink_at_us", c_uint64),
                ("cpus", c_uint64 * 8), ("clock_reasons", c_uint64), ("ecc_corrected", c_uint64),
                ("ecc_uncorrected", c_uint64), ("ancestor", c_uint32 * MAX_GPUS), ("p2p", c_uint32 * MAX_GPUS),
                ("link", Link * MAX_LINKS), ("profile", Profile * MAX_PROFILES),
                ("instance", Instance * MAX_INSTANCES), ("process", Process * MAX_PROCESSES)]  # fmt: skip


class State(ctypes.Structure):
    _fields_ = [("magic", c_uint32), ("size", c_uint32), ("driver", c_char * 80), ("cuda", c_uint32),
                ("gpus", c_uint32), ("rules", c_uint32), ("pad", c_uint32), ("events", c_uint64),
                ("rule", Rule * MAX_RULES), ("event", Event * MAX_EVENTS), ("gpu", Gpu * MAX_GPUS)]  # fmt: skip


STRUCTURES = (Rule, Event, Link, Profile, Instance, Process, Gpu, State)
WORDS = {c_char: "char", c_int32: "int32_t", c_uint32: "uint32_t", c_uint64: "uint64_t", ctypes.c_uint8: "uint8_t"}


def header() -> str:
    """Return the structures in C."""
    lines = ["#include <stdint.h>", f"#define MAGIC {MAGIC}u"]
    lines += [f"#define {name} {value}" for name, value in globals().items() if name.startswith("MAX_")]
    for structure in STRUCTURES:
        fields = "".join(f"  {_declared(name, kind)};\n" for name, kind in structure._fields_)
        lines.append(f"typedef struct {{\n{fields}}} {structure.__name__}_t;")
        lines.append(f'_Static_assert(sizeof({structure.__name__}_t) == {ctypes.sizeof(structure)}, "layout");')
    return "\n".join(lines) + "\n"


def _declared(name: str, kind: type) -> str:
    if hasattr(kind, "_length_"):
        return f"{_word(kind._type_)} {name}[{kind._length_}]"
    return f"{_word(kind)} {name}"


def _word(kind: type) -> str:
    return WORDS.get(kind) or f"{kind.__name__}_t"


@contextlib.contextmanager
def changed(path: Path) -> Iterator[State]:
    """Yield the state for reading and writing, under the lock that the library takes too."""
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # The mapping goes with the last name that looks into it; to close it earlier would fail.
        yield State.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(State)))
