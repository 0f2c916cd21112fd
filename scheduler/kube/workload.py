"""A gang as it is found in the cluster: the model's gang, its pods by rank, and what is still missing."""

from dataclasses import dataclass

from scheduler.kube import pod as pods
from scheduler.model import gang as gangs


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """Which gang a pod belongs to, told from the pod alone.

    Attributes
    ----------
    name : str
        Name of the GangPlacement: ``jobset-x``, ``job-x``, ``lws-x-0``, ``podgroup-x``, ``gang-x``, ``pod-x``.
    kind : str
        ``JobSet``, ``Job``, ``LeaderWorkerSet``, ``PodGroup``, ``SigsPodGroup`` (scheduling.x-k8s.io),
        ``KueuePodGroup``, ``Annotated``, ``Pod``.
    owner : str
        Name of the object that tells about the gang (the JobSet, say).
    """

    namespace: str
    name: str
    kind: str
    owner: str = ""

    @property
    def key(self) -> str:
        """Return the name of the model's gang: ``namespace/name``."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Member:
    """A pod with its place in the gang; `index` counts within the role."""

    rank: int
    role: str
    index: int
    pod: pods.Pod


@dataclass(frozen=True, slots=True, order=True)
class Within:
    """A domain that pods of a role must be in, because somebody else has said so already.

    Attributes
    ----------
    level : str
        Node label, or level name as the user wrote it.
    domain : str
        Value of that label; "" for the domain that `node` is in.
    count : int
        How many of the role's pods go there, those of the lowest ranks to the first domain; 0 for all.
    above : tuple of (str, str)
        Labels of coarser levels and their values, which hold too: a rack's name may be unique only in its block.
    """

    role: str
    level: str
    domain: str = ""
    node: str = ""
    count: int = 0
    above: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Workload:
    """What is known of a gang now.

    Attributes
    ----------
    owner : Owner
        The object that the GangPlacement belongs to and goes with.
    gang : Gang or None
        None while too little is known to say what it asks for, and where `problem` says why it can't be planned.
    members : tuple of Member
        The pods that exist, by rank; at most one of each rank, the newest.
    missing : int
        Pods still to come before the gang may be planned.
    waiting_for : str
        What is missing, in plain words: "3 of 8 pods", "claims of pod ml/w-0".
    problem : str
        A contradiction, naming object, field and remedy; "" for none.
    within : tuple of Within
        Domains that are decided already: by Kueue's topology assignment, or by where the leader runs.
    """

    identity: Identity
    owner: pods.Owner
    gang: gangs.Gang | None
    members: tuple[Member, ...] = ()
    missing: int = 0
    waiting_for: str = ""
    problem: str = ""
    within: tuple[Within, ...] = ()

    @property
    def lone(self) -> bool:
        """Return whether it is one pod of its own with one claim at most, whose plan is written without a record."""
        pods = [member.pod for member in self.members]
        return self.identity.kind == "Pod" and len(pods) == 1 and len(pods[0].claims) <= 1

    @property
    def evicted(self) -> str:
        """Return why a leader evicts it: a pod of it is marked so, and has not ended; "" for no eviction."""
        return next((one.pod.evicted for one in self.members if one.pod.evicted and not one.pod.finished), "")

    @property
    def complete(self) -> bool:
        """Return whether the gang may be planned."""
        return self.gang is not None and not (self.missing or self.waiting_for or self.problem)
