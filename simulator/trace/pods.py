"""How a number of GPUs becomes pods, for traces that know gangs only by their size."""

from dataclasses import dataclass

from scheduler.model import gang, request
from simulator.trace import job


@dataclass(frozen=True, slots=True)
class PodSize:
    """What a pod asks for besides its GPUs.

    Attributes
    ----------
    gpus_per_node : int
        A pod takes at most this many GPUs.
    cpu_milli, memory_mib : int
        For each GPU. The defaults are a little under one eighth of an HGX or DGX node (96 CPUs, 768 GiB), so that
        they never decide about nodes with eight GPUs.
    """

    gpus_per_node: int = 8
    cpu_milli: int = 11_000
    memory_mib: int = 90_000

    def request(self, gpus: int) -> request.PodRequest:
        """Return the request of one pod with whole GPUs."""
        return request.PodRequest(cpu_milli=gpus * self.cpu_milli, memory_mib=gpus * self.memory_mib, gpus=gpus)


DEFAULT = PodSize()


@dataclass(frozen=True, slots=True)
class Traffic:
    """Collectives of a training job.

    Attributes
    ----------
    communication_milli : int
        Share of the run time at the reference bandwidth, once more than one GPU takes part. The default of a quarter
        is an assumption: published profiles of data-parallel training range from a tenth to a half.
    message_bytes : int
        Bytes of one all-reduce: 64 MiB is the order of PyTorch's gradient buckets (25 MiB) and fused buffers.
    """

    communication_milli: int = 250
    message_bytes: int = 64 << 20


def training(gpus: int, size: PodSize = DEFAULT, traffic: Traffic | None = None) -> job.JobShape:
    """Return a training job on some GPUs: equal pods where the number divides, else one smaller pod at the end.

    Examples
    --------
    >>> [(role.count, role.request.gpus) for role in training(24).gang.roles]
    [(3, 8)]
    >>> [(role.count, role.request.gpus) for role in training(17).gang.roles]
    [(2, 8), (1, 1)]
    """
    pods = -(-gpus // size.gpus_per_node)
    if gpus % pods == 0:
        roles: tuple[gang.Role, ...] = (gang.Role("worker", pods, size.request(gpus // pods)),)
    else:
        full, rest = divmod(gpus, size.gpus_per_node)
        roles = (gang.Role("worker", full, size.request(size.gpus_per_node)), gang.Role("last", 1, size.request(rest)))
    template = gang.Gang(name=f"training-{gpus}", roles=roles)
    if gpus == 1:
        return job.JobShape(template)
    wanted = traffic or Traffic()
    return job.JobShape(template, wanted.communication_milli, wanted.message_bytes)
