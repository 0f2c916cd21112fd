"""The engine: pure functions over a Snapshot.

policy     -- ScoringPolicy: which rules and weights, as a frozen value
target     -- the target workload and the integer tables derived from it
prices     -- dual prices of request sizes by linear programming
score      -- integer cost of a pod on every node, one module per rule
openings   -- free GPU and untouched machines of the fleet, kept up to date
rows       -- cost rows cached per pod request, re-scored only where nodes changed
fit        -- pods of a request that fit on every node, per resource
partitions -- MIG placements as tables over the slices in use
devices    -- the very devices of a pod on its node
domains    -- what every domain holds under topology constraints; tightest first
pack       -- pods of a role to the nodes of one domain
bandwidth  -- predicted collective bandwidth of a placement
gang_price -- what a gang's placement uses up
search     -- the default domain rule; tas -- Kueue's two orders
engine     -- place(snapshot, gang, scoring) -> Placement | Rejection
refusal    -- why not: the blocking constraint, the nearest domain, what is missing
placement  -- the answer
plan       -- several changes as one transaction
clearing   -- which gangs to take away for another
preempt    -- victims; defragment -- moves
explain    -- why here, why not there
"""
