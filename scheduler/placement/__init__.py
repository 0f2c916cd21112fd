"""The engine: pure functions over a Snapshot.

policy     -- ScoringPolicy: which rules and weights, as a frozen value
target     -- the target workload and the integer tables derived from it
prices     -- dual prices of request sizes by linear programming
score      -- integer cost of a pod on every node, one module per rule
rows       -- cost rows cached per pod request, re-scored only where nodes changed
domains    -- candidate domains, tightest first, with capacity bounds
pack       -- pods to nodes to device subsets inside one domain
bandwidth  -- predicted collective bandwidth of a placement
engine     -- place(snapshot, gang, scoring) -> Placement | Rejection
placement  -- the answer
plan       -- several changes as one transaction
preempt    -- victims; defragment -- moves
explain    -- why here, why not there
"""
