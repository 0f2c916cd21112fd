"""The target workload: which pods and gangs are expected, so that scores can tell what a placement spoils."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from scheduler.model import request


@dataclass(frozen=True, slots=True)
class TargetItem:
    """One kind of pod with its popularity.

    Attributes
    ----------
    pod : PodRequest
        Without its memory, which no score reads.
    count : int
        Pods of this kind.
    gang_gpus : int
        GPUs of the gang that the pods belong to; the pod's own for lone pods.
    """

    pod: request.PodRequest
    count: int
    gang_gpus: int = 0


@dataclass(frozen=True, slots=True)
class TargetWorkload:
    """The distribution of pods that the fleet is expected to serve; counts are exact integers, never fractions."""

    items: tuple[TargetItem, ...]

    @property
    def total(self) -> int:
        """Return the number of pods."""
        return sum(item.count for item in self.items)

    def popular(self, share_milli: int = 950) -> "TargetWorkload":
        """Return the most popular items that together make `share_milli` of all pods.

        Notes
        -----
        The published order (FGD, ATC'23): count, then CPU, then GPU milli, then GPUs, then GPU models, all descending.
        """
        ranked = sorted(self.items, key=_popularity, reverse=True)
        kept, pods = [], 0
        for item in ranked:
            kept.append(item)
            pods += item.count
            if pods * 1000 >= share_milli * self.total:
                break
        return TargetWorkload(tuple(kept))


def _popularity(item: TargetItem) -> tuple[int, int, int, int, str]:
    pod = item.pod
    return item.count, pod.cpu_milli, pod.gpu_milli if pod.gpus else 0, pod.gpus, "|".join(pod.gpu_models)


def from_requests(pods: Iterable[tuple[request.PodRequest, int]], gang_gpus: int = 0) -> TargetWorkload:
    """Build a target from pod requests and how often each occurs; equal requests are added up.

    Parameters
    ----------
    gang_gpus : int
        GPUs of the gang that every one of these pods belongs to, 0 for lone pods.
    """
    counts: dict[tuple[request.PodRequest, int], int] = {}
    for pod, count in pods:
        key = replace(pod, memory_mib=0), gang_gpus or pod.gpus
        counts[key] = counts.get(key, 0) + count
    return merge(TargetWorkload(tuple(TargetItem(pod, n, gpus) for (pod, gpus), n in counts.items())))


def merge(*targets: TargetWorkload) -> TargetWorkload:
    """Add targets up, items in a content-derived order."""
    counts: dict[tuple[request.PodRequest, int], int] = {}
    for target in targets:
        for item in target.items:
            counts[item.pod, item.gang_gpus] = counts.get((item.pod, item.gang_gpus), 0) + item.count
    return TargetWorkload(tuple(TargetItem(pod, count, gpus) for (pod, gpus), count in sorted(counts.items())))
