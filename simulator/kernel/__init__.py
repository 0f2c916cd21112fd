"""The engine's hot loops, compiled. Optional: without numba the same decisions come from the NumPy engine, slower.

Every function here has a twin in ``scheduler.placement``, and tests hold the two to identical decisions. Nodes are
numbered by their tie rank, so that the first of several equal costs is the one that the total order wants.

arrays   -- fleet, requests and target as flat arrays
frag     -- fragmentation of one node
rules    -- cost of one pod on one node
rows     -- cost rows with block minima
inflate  -- the FGD study's protocol
"""

import importlib.util

AVAILABLE = importlib.util.find_spec("numba") is not None
"""Whether compiled code can be used here."""
