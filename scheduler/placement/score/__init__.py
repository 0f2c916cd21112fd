"""Integer cost of one pod on any set of nodes, one rule per function; lower is better.

feasible      -- which nodes can take the pod at all
fragmentation -- GPU that the target workload could not use (FGD's measure), exactly, in integers
opportunity   -- our rule: the price of what a placement uses up
rings         -- bandwidth that the free GPUs of a node offer
published     -- the rules of the FGD study: random, dot product, clustering, packing, best fit, FGD
kubernetes    -- kube-scheduler's least and most allocated, and DRA's first fit

Every rule is ``rule(tables, snapshot, wanted, nodes) -> (cost, gpu)``: int64 costs of the nodes (only meaningful where
the pod fits), and for shared pods the GPU that the rule would give, else -1.
"""
