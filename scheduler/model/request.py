"""What one pod asks of one node."""

from dataclasses import dataclass
from enum import Enum

from scheduler.model import admission, device


class RequestKind(Enum):
    """How the GPUs of a pod are cut."""

    CPU = "cpu"
    SHARE = "share"
    WHOLE = "whole"
    MIG = "mig"


@dataclass(frozen=True, slots=True, order=True)
class PodRequest:
    """Resources and devices of one pod.

    Attributes
    ----------
    cpu_milli, memory_mib : int
    gpus : int
        Number of GPUs, or of MIG partitions where `mig` is set.
    gpu_milli : int
        Share of each GPU in milli; below 1000 only with ``gpus == 1`` and without `mig`.
    mig : str
        MIG profile name, "" for none.
    nics : int
        NICs held exclusively, chosen nearest to the GPUs.
    gpu_models : tuple of str
        Accepted GPU models, sorted; empty accepts any. A model named twice means the same as once, but makes another
        request: the published measure of popularity tells pods apart by what they wrote.
    accelerators : tuple of (str, int)
        Other accelerators by kind and count, sorted by kind.
    nodes : Admission
        On which nodes it may be.

    Raises
    ------
    ValueError
        Names the field when the request contradicts itself.
    """

    cpu_milli: int = 0
    memory_mib: int = 0
    gpus: int = 0
    gpu_milli: int = device.WHOLE_GPU_MILLI
    mig: str = ""
    nics: int = 0
    gpu_models: tuple[str, ...] = ()
    accelerators: tuple[tuple[str, int], ...] = ()
    nodes: admission.Admission = admission.Admission()

    def __post_init__(self) -> None:
        for field in ("cpu_milli", "memory_mib", "gpus", "nics"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} must not be negative, got {getattr(self, field)}")
        if not 0 < self.gpu_milli <= device.WHOLE_GPU_MILLI:
            raise ValueError(f"gpu_milli must be 1..{device.WHOLE_GPU_MILLI}, got {self.gpu_milli}")
        if self.gpu_milli < device.WHOLE_GPU_MILLI and (self.gpus != 1 or self.mig):
            raise ValueError("gpu_milli below 1000 needs gpus == 1 and no mig profile")
        if self.mig and not self.gpus:
            raise ValueError("mig needs gpus >= 1 (the number of partitions)")
        if tuple(sorted(self.gpu_models)) != self.gpu_models:
            raise ValueError("gpu_models must be sorted")
        if any(count < 1 for _, count in self.accelerators):
            raise ValueError("accelerators must have counts of at least 1")
        kinds = tuple(kind for kind, _ in self.accelerators)
        if tuple(sorted(set(kinds))) != kinds:
            raise ValueError("accelerators must be sorted and without duplicates")

    @property
    def kind(self) -> RequestKind:
        """Return how this request cuts GPUs."""
        if not self.gpus:
            return RequestKind.CPU
        if self.mig:
            return RequestKind.MIG
        return RequestKind.WHOLE if self.gpu_milli == device.WHOLE_GPU_MILLI else RequestKind.SHARE

    @property
    def total_gpu_milli(self) -> int:
        """Return GPU milli asked for in whole or in shares; 0 for MIG and CPU-only requests."""
        return 0 if self.mig else self.gpus * self.gpu_milli if self.gpus else 0
