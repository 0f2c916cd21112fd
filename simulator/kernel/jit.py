"""How functions are compiled here."""

from typing import Any

import numba

njit: Any = numba.njit  # its annotations know no `_nrt`

outer = njit(cache=True)
"""For loops that are called from Python and may allocate."""

inner = njit(cache=True, _nrt=False)
"""For what the loops call: no reference counting, so nothing may be allocated or kept.

Without it every call counts references of all arrays in the tuples it is given: a run takes three to five times as long.
"""

hot = njit(cache=True, _nrt=False, forceinline=True)
"""For what is called for every node scored: also inlined, since passing the tuples costs more than the work itself.

Another two to four times; only for functions with one or two callers, as each of them is compiled into all of its callers.
"""
