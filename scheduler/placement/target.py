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
    """

    pod: request.PodRequest
    count: int


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


def from_requests(pods: Iterable[tuple[request.PodRequest, int]]) -> TargetWorkload:
    """Build a target from pod requests and how often each occurs; equal ones are added up, in a content-derived order."""
    counts: dict[request.PodRequest, int] = {}
    for pod, count in pods:
        key = replace(pod, memory_mib=0)
        counts[key] = counts.get(key, 0) + count
    return TargetWorkload(tuple(TargetItem(pod, count) for pod, count in sorted(counts.items())))
