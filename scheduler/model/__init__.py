"""What exists: devices, machines, the fabric, requests and gangs, as frozen values.

device    -- GPU models with their MIG tables, GPUs, NICs, other accelerators
node      -- one machine: devices, NVLinks, PCIe and NUMA, as values and as a graph
fabric    -- the tree of domains over the nodes (networkx), named levels, any depth
request   -- what one pod asks of a node
gang      -- roles, segments, topology constraints, rank order, priority, tenant
claim     -- device requests and allocations in DRA terms
slices    -- ResourceSlice codec, both directions
machines  -- real machines with their true link matrices
reasons   -- why a gang was refused
"""
