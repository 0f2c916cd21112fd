"""The same facts as arrays.

tree      -- domains in preorder: intervals, parents, ancestors per level
shapes    -- per class of identical machines: best subset and quality for every set of free GPUs
topology  -- everything that stays fixed while the fleet does not change, by generation
demand    -- one pod request compiled against a topology
state     -- Snapshot: what is free now; take, release, copy
"""
