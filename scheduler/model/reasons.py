"""Why a gang was refused: the words that Events, metrics and HTTP answers share."""

from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """The constraint that blocked a gang; the value is the metric label and the Event reason."""

    TOO_LARGE = "GangLargerThanCluster"
    NO_SUCH_DEVICE = "NoSuchDevice"
    NO_SUCH_LEVEL = "NoSuchLevel"
    NO_SUCH_NODE = "NoNodeMatchesSelector"
    TAINTS = "TaintsNotTolerated"
    GPUS = "InsufficientGPUs"
    SHAPE = "GPUsTooScattered"
    CPU = "InsufficientCPU"
    MEMORY = "InsufficientMemory"
    NICS = "InsufficientNICs"
    ACCELERATORS = "InsufficientAccelerators"
    PODS = "InsufficientPodSlots"
    PARTITION = "NoMIGPlacement"
    DOMAIN = "NoDomainLargeEnough"
    SEGMENT = "SegmentDoesNotFit"
    SPREAD = "SpreadLimit"
    QUOTA = "TenantQuotaExceeded"
    QUEUED = "BehindInQueue"
    SEARCH_LIMIT = "SearchLimitReached"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A refusal as a value: what blocked, where it came nearest, what is missing.

    Attributes
    ----------
    level : str
        Level at which a domain had to be found, "" for the whole fleet.
    nearest : str
        The domain that comes nearest, "" when no domain has the device at all.
    missing : int
        How many units of `resource` the nearest domain lacks.
    resource : str
        What is missing: ``"pods"``, ``"GPUs"``, ``"milli-CPU"``, ...
    permanent : bool
        True when the empty fleet could not hold the gang either: waiting does not help.
    """

    gang: str
    reason: Reason
    level: str = ""
    nearest: str = ""
    missing: int = 0
    resource: str = "pods"
    permanent: bool = False
    detail: str = ""

    def __str__(self) -> str:
        where = f"no {self.level} can" if self.level else "the fleet cannot"
        words = f"{self.reason.value}: {where} hold gang {self.gang} {'even when empty' if self.permanent else 'now'}"
        if self.nearest:
            words += f"; nearest is {self.nearest}, which lacks {self.missing} {self.resource}"
        return words + (f" ({self.detail})" if self.detail else "")
