"""When a waiting gang's reason is news.

A queue that moves makes reasons flicker: with every start and end somewhere the same gang lacks now GPUs, now GPUs on one
node, now a rack. To be told of each is noise. A gang is told how far it came; `Machine.why` always has the reason of now.
"""

from scheduler.model import reasons

Reason = reasons.Reason

_ORDER = (
    (Reason.QUEUED,),
    (Reason.TOO_LARGE, Reason.NO_SUCH_DEVICE, Reason.NO_SUCH_LEVEL, Reason.NO_SUCH_NODE, Reason.TAINTS),
    (Reason.GPUS, Reason.PARTITION),
    (Reason.CPU, Reason.MEMORY, Reason.NICS, Reason.ACCELERATORS, Reason.PODS),
    (Reason.SHAPE,),
    (Reason.DOMAIN,),
    (Reason.SEGMENT,),
    (Reason.SPREAD,),
    (Reason.SEARCH_LIMIT,),
)

STAGE = {reason: stage for stage, some in enumerate(_ORDER) for reason in some}
"""How far a gang came before it was refused: its turn, devices, what they need beside them, their shape, the topology.

The quota is no stage: it holds a gang back whatever is free.
"""


def is_news(said: Reason | None, furthest: int, reason: Reason) -> bool:
    """Tell whether a gang is to be told why it waits.

    Parameters
    ----------
    said : Reason or None
        What it was told last in this stay in the queue.
    furthest : int
        The largest `STAGE` it was told of, -1 for none.

    Notes
    -----
    A later stage than ever is news, an earlier or equal one is not. That the tenant's quota took over from the fleet, or
    the fleet from the quota, is always news: somebody else can do something about it.
    """
    if (said is Reason.QUOTA) != (reason is Reason.QUOTA):
        return True
    return reason is not Reason.QUOTA and STAGE[reason] > furthest
