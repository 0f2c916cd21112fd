"""What each reason for waiting means, in one sentence that a user can act on."""

from scheduler.model import reasons

MEANING = {
    reasons.Reason.TOO_LARGE: "the gang asks for more than the whole fleet has: it can never start",
    reasons.Reason.NO_SUCH_DEVICE: "no machine of the fleet has the device that is asked for",
    reasons.Reason.NO_SUCH_LEVEL: "the fleet has no level of the name that is required",
    reasons.Reason.NO_SUCH_NODE: "no machine with the devices has the labels that the pods select",
    reasons.Reason.TAINTS: "every machine that would do has a taint that the pods do not tolerate",
    reasons.Reason.GPUS: "too few free GPUs of an accepted kind",
    reasons.Reason.SHAPE: "enough free GPUs, but not enough of them together on one node",
    reasons.Reason.CPU: "free GPUs sit on nodes whose CPU is used up",
    reasons.Reason.MEMORY: "free GPUs sit on nodes whose memory is used up",
    reasons.Reason.NICS: "too few free NICs beside the GPUs",
    reasons.Reason.ACCELERATORS: "too few free accelerators of the kind that is asked for",
    reasons.Reason.PODS: "free GPUs sit on nodes that can hold no more pods",
    reasons.Reason.PARTITION: "no GPU has room left for a partition of this profile",
    reasons.Reason.DOMAIN: "no single domain of the required level has room for all pods",
    reasons.Reason.SEGMENT: "a group of ranks that must share a domain finds none",
    reasons.Reason.SPREAD: "the limit of pods per domain leaves too few places",
    reasons.Reason.QUOTA: "the tenant has used up its share and may not borrow",
    reasons.Reason.QUEUED: "an earlier job goes first and this one may not overtake it",
    reasons.Reason.SEARCH_LIMIT: "the search stopped at its limit without proof either way",
}


def meaning(reason: reasons.Reason) -> str:
    """Return the sentence."""
    return MEANING[reason]


def by_name(name: str) -> str:
    """Return the sentence for a reason's value, as logs spell it."""
    return meaning(reasons.Reason(name))
