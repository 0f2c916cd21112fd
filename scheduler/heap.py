"""The garbage collector and the objects that stay: a full collection walks over them all, and nothing is answered meanwhile.

With 5,000 nodes that is half a second, again and again while pods come.
"""

import gc


def settle() -> None:
    """Take all but garbage out of the collector's sight; what an earlier call took out is looked at again."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
