"""InferencePools: which pools a pod serves, and who serves a pool.

A pool says nothing about devices, size or topology. Its pods are placed as what they are besides: lone pods of a
Deployment, replicas of a LeaderWorkerSet, gangs by annotation; levels and spread count where those pods are annotated.
What is told of them is told on the pool as well, so that who serves a model need not look for its pods.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scheduler.kube import event, world
from scheduler.kube import pod as pods

API_VERSION, KIND = "inference.networking.k8s.io/v1", "InferencePool"

Item = Mapping[str, Any]


def serving(known: world.World, found: Iterable[pods.Pod]) -> Iterator[tuple[event.Subject, pods.Pod]]:
    """Yield each pool that some of the pods serve, with the first of them."""
    told = set()
    for pod in found:
        for (namespace, name), item in known.store["inferencepools"].items():
            if namespace == pod.namespace and name not in told and selects(item, pod):
                told.add(name)
                yield event.Subject(API_VERSION, KIND, namespace, name, item["metadata"].get("uid", "")), pod


def members(known: world.World, namespace: str, name: str) -> list[pods.Pod]:
    """Return the pods that serve a pool, by name; none for a pool that does not exist."""
    item = known.store["inferencepools"].get((namespace, name))
    if item is None:
        return []
    found = (pod for (place, _), pod in sorted(known.store["pods"].items()) if place == namespace)
    return [pod for pod in found if selects(item, pod)]


def selects(item: Item, pod: pods.Pod) -> bool:
    """Tell whether a pool's selector means a pod of its namespace; an empty selector means none, as the API has it."""
    wanted = ((item.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    return bool(wanted) and not pod.gone and all(pod.labels.get(key) == value for key, value in wanted.items())
