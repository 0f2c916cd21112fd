"""Manifests as people hand them to ``kubectl apply``, read for the gangs in them; nothing of them exists in the cluster."""

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import yaml

from scheduler import bad_input
from scheduler.kube import claim as claims
from scheduler.kube import confined, fleet, mirror, requests, sighting, workload, world
from scheduler.kube import pod as pods
from scheduler.kube.gangs import identity, marks, outline, recognize
from scheduler.model import request

Item = Mapping[str, Any]
_Value = TypeVar("_Value")

MAX_OBJECTS = 256
MAX_VALUES = 200_000
"""Values of a manifest, aliases expanded."""

MAX_DEPTH = 64

MAX_GANGS = 64

WORKLOADS = {
    ("jobset.x-k8s.io", "JobSet"): marks.JOBSET,
    ("batch", "Job"): marks.JOB,
    ("leaderworkerset.x-k8s.io", "LeaderWorkerSet"): marks.LWS,
    ("scheduling.k8s.io", "PodGroup"): marks.POD_GROUP,
    ("scheduling.x-k8s.io", "PodGroup"): marks.SIGS_POD_GROUP,
    ("", "Pod"): "Pod",
    ("", "ResourceClaim"): "ResourceClaim",
    ("resource.k8s.io", "ResourceClaim"): "ResourceClaim",
    ("resource.k8s.io", "ResourceClaimTemplate"): "ResourceClaimTemplate",
}
"""What is read, by API group and kind, with the name that `outline.Objects` has for it."""

ONE_BY_ONE = ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "CronJob")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Objects by what they are.

    Attributes
    ----------
    objects : dict of (kind, namespace, name) to object
        JobSets, Jobs, LeaderWorkerSets and PodGroups.
    named : dict of (namespace, name) to Claim
        ResourceClaims.
    ignored : tuple of str
        Objects that say nothing about devices.
    """

    objects: Mapping[tuple[str, str, str], Item] = field(default_factory=dict)
    members: tuple[pods.Pod, ...] = ()
    named: Mapping[mirror.Key, claims.Claim] = field(default_factory=dict)
    templates: Mapping[mirror.Key, claims.Spec] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


def parse(body: bytes, namespace: str) -> Manifest:
    """Read YAML or JSON; objects without a namespace are of `namespace`.

    Raises
    ------
    BadInput
    """
    try:
        found = [one for document in _documents(body) for one in _objects(document)]
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        if isinstance(problem, bad_input.BadInput):
            raise
        text = str(problem).replace("\n", " ")[:300]
        raise _bad(f"is neither YAML nor JSON: {text}", remedy="send what kubectl apply takes") from None
    if not found or len(found) > MAX_OBJECTS:
        raise _bad(f"has {len(found)} objects", remedy=f"send from 1 to {MAX_OBJECTS}")
    return _sorted(found, namespace)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A gang of a manifest.

    Attributes
    ----------
    workload : Workload
        Its `gang` is not None. No members where an owner will make the pods.
    specs : dict of request to dict of claim name to Spec
        The claims of each kind of pod.
    """

    workload: workload.Workload
    specs: Mapping[request.PodRequest, Mapping[str, claims.Spec]]


def gangs(manifest: Manifest, known: world.World, sight: sighting.Sight, compiled: fleet.Compiled) -> list[Wanted]:
    """Return the gangs that a manifest will make, in its order.

    Templates, claims and owners that the manifest lacks are taken from the cluster.

    Raises
    ------
    BadInput
        It has none, too many, or an object is not what its kind has to be.
    """
    reader = _Reader(manifest, known, sight, compiled)
    found: list[Wanted] = []
    for where, job in reader.jobs():
        reader.specs = {}
        found += [Wanted(_whole(where, reader.finished(one)), reader.specs) for one in _guarded(where, job)]
        if len(found) > MAX_GANGS:
            raise _bad(f"makes more than {MAX_GANGS} gangs", remedy="ask for fewer at a time")
    if not found:
        named = f"; ignored: {', '.join(manifest.ignored[:8])}" if manifest.ignored else ""
        raise _bad(f"has no workload{named}", remedy="send a Pod, Job, JobSet, LeaderWorkerSet or pods of a PodGroup")
    return found


@dataclass(frozen=True, slots=True)
class Over(Mapping[mirror.Key, _Value]):
    """What the manifest has, and below it what the cluster has."""

    own: Mapping[mirror.Key, _Value]
    below: Mapping[mirror.Key, _Value]

    def __getitem__(self, key: mirror.Key) -> _Value:
        return self.own[key] if key in self.own else self.below[key]

    def __iter__(self) -> Iterator[mirror.Key]:
        return iter({**self.below, **self.own})

    def __len__(self) -> int:
        return len({**self.below, **self.own})


Job = Callable[[], Sequence[workload.Workload]]


@dataclass(slots=True, eq=False)
class _Reader:
    """Recognises the gangs of a manifest as `sighting.Sight` does those of the cluster."""

    manifest: Manifest
    known: world.World
    sight: sighting.Sight
    compiled: fleet.Compiled
    specs: dict[request.PodRequest, Mapping[str, claims.Spec]] = field(default_factory=dict)

    def jobs(self) -> Iterator[tuple[str, Job]]:
        """Yield for each owner or group of pods its name and what recognises it."""
        for (kind, namespace, name), item in self.manifest.objects.items():
            for own in _identities(kind, namespace, name, item):
                yield f"{kind} {namespace}/{name}", partial(recognize.expected, own, self.object, self.asked)
        grouped: dict[workload.Identity, list[pods.Pod]] = {}
        for pod in self.manifest.members:
            found = identity.of(pod)
            if found is None:
                raise bad_input.BadInput("has no gang yet", file=f"pod {pod.key}", remedy="ask with its owner")
            grouped.setdefault(found, []).append(pod)
        for own, members in grouped.items():
            yield f"pod {members[0].key}", partial(recognize.recognize, own, members, self.object, self.asked)

    def object(self, kind: str, namespace: str, name: str) -> Item | None:
        """Return an object of the manifest, or else of the cluster."""
        return self.manifest.objects.get((kind, namespace, name)) or self.sight.object(kind, namespace, name)

    def asked(self, pod: pods.Pod) -> request.PodRequest:
        """Return what a pod asks for, and keep what its claims say."""
        store = self.known.store
        specs = requests.asked(
            pod,
            Over(self.manifest.named, store["claims"]),
            Over(self.manifest.templates, store["templates"]),
        )
        named = {name: one for (_, name), one in store["classes"].items()}
        found = requests.of(pod, specs, named, self.known.live)
        self.specs.setdefault(found, specs)
        return found

    def finished(self, one: workload.Workload) -> workload.Workload:
        """Return a gang with the fleet's names of levels."""
        spelled = replace(one, gang=one.gang and sighting.spelled(one.gang, self.compiled.spellings))
        return confined.confined(spelled, self.compiled.topology, self.compiled.spellings)


def _identities(kind: str, namespace: str, name: str, item: Item) -> Iterator[workload.Identity]:
    """Yield the gangs' identities of an owner; a PodGroup makes none without pods."""
    match kind:
        case marks.JOBSET:
            yield identity.jobset(namespace, name)
        case marks.JOB:
            yield identity.job(namespace, name)
        case marks.LWS:
            where = f"LeaderWorkerSet {namespace}/{name}"
            count = outline.amount((item.get("spec") or {}).get("replicas"), 1, where, "spec.replicas")
            for group in range(min(count, MAX_GANGS + 1)):
                yield identity.lws(namespace, name, str(group))


def _guarded(where: str, job: Job) -> Sequence[workload.Workload]:
    """Recognise; what the API server would have refused is told as the manifest's fault."""
    try:
        return job()
    except outline.NotYet as missing:
        raise _bad(f"needs {missing}", where, "send it along, or create it first") from None
    except bad_input.BadInput:
        raise
    except ValueError as problem:
        raise _bad(str(problem), where) from None
    except (AttributeError, TypeError, KeyError, IndexError) as problem:
        raise _malformed(where, problem) from None


def _whole(where: str, one: workload.Workload) -> workload.Workload:
    """Return a gang of which enough is known."""
    if one.problem:
        raise _bad(one.problem, where)
    if one.gang is None:
        raise _bad(f"lacks {one.waiting_for or 'pods'}", where, "send them along: a gang is planned as a whole")
    return one


def _documents(body: bytes) -> Iterator[Any]:
    loader, text = getattr(yaml, "CSafeLoader", yaml.SafeLoader), body.decode()
    _check_depth(text, loader)
    for document in yaml.load_all(text, loader):
        if document is not None:
            _measure(document)
            yield document


def _check_depth(text: str, loader: Any) -> None:
    """Refuse deep nesting before it is composed: that recurses in C, and a deep enough document ends the process."""
    depth = 0
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _bad(f"is nested more than {MAX_DEPTH} levels deep", remedy="take the nesting out")


def _measure(document: object) -> None:
    """Refuse a document whose aliases unfold to too much."""
    count, level = 0, [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for one in level:
            children = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            count += len(children)
            if count > MAX_VALUES:
                raise _bad(f"has more than {MAX_VALUES} values", remedy="send fewer objects at a time")
            below += children
        if not below:
            return
        level = below
    raise _bad(f"is nested more than {MAX_DEPTH} levels deep", remedy="take the nesting out")


def _objects(document: object) -> Iterator[Item]:
    """Yield the objects of a document, those of a List one by one."""
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise _bad("has a document that is no object", field="kind", remedy="write apiVersion and kind")
    if not document["kind"].endswith("List"):
        yield document
        return
    for one in document.get("items") or ():
        yield from _objects(one)


def _sorted(found: Sequence[Item], namespace: str) -> Manifest:
    """Sort objects by what they are."""
    objects: dict[tuple[str, str, str], Item] = {}
    members: list[pods.Pod] = []
    own: dict[mirror.Key, claims.Claim] = {}
    templates: dict[mirror.Key, claims.Spec] = {}
    ignored = []
    for item in found:
        where = _where(item)
        kind = WORKLOADS.get((str(item.get("apiVersion") or "").rpartition("/")[0], item["kind"]))
        if item["kind"] in ONE_BY_ONE:
            remedy = "ask with one Pod of its template"
            raise _bad(f"makes pods that are placed one by one, not as a gang: {item['kind']}", where, remedy)
        if kind is None:
            ignored.append(where)
            continue
        try:
            whole, key = _named(item, namespace)
            if kind == "Pod":
                members.append(pods.read(whole))
            elif kind == "ResourceClaim":
                own[key] = claims.read(whole)
            elif kind == "ResourceClaimTemplate":
                templates[key] = world.read_template(dict(whole))
            else:
                objects[kind, *key] = whole
        except bad_input.BadInput:
            raise
        except (AttributeError, TypeError, KeyError, IndexError, ValueError) as problem:
            raise _malformed(where, problem) from None
    return Manifest(objects, tuple(members), own, templates, tuple(ignored))


def _named(item: Item, namespace: str) -> tuple[Item, mirror.Key]:
    """Return an object with namespace, name and a time of creation, and its key."""
    metadata = item["metadata"]
    space, name = str(metadata.get("namespace") or namespace), metadata.get("name")
    if not name and metadata.get("generateName"):
        name = f"{metadata['generateName']}what-if"
    if not name or not isinstance(name, str):
        raise _bad("has no name", _where(item), "write metadata.name")
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    fresh = {**metadata, "namespace": space, "name": name, "uid": f"what-if/{space}/{name}", "creationTimestamp": now}
    fresh.pop("deletionTimestamp", None)
    spec = dict(item.get("spec") or {})
    spec.pop("nodeName", None)
    return {**item, "metadata": fresh, "spec": spec, "status": {}}, (space, name)


def _where(item: Item) -> str:
    metadata = item.get("metadata")
    name = metadata.get("name") or metadata.get("generateName") if isinstance(metadata, dict) else ""
    return f"{str(item['kind'])[:80]} {str(name or '(no name)')[:253]}"


def _bad(problem: str, where: str = "", remedy: str = "", field: str = "") -> bad_input.BadInput:
    return bad_input.BadInput(problem, file=where or "the manifest", field=field, remedy=remedy)


def _malformed(where: str, problem: Exception) -> bad_input.BadInput:
    text = f"is not what its kind has to be ({type(problem).__name__}: {str(problem)[:200]})"
    return _bad(text, where, "check it with kubectl apply --dry-run=server")
