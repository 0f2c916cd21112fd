"""What exists: devices, machines, the fabric, requests and gangs, as frozen values.

device     -- GPU models with their MIG tables, GPUs, NICs, other accelerators
gpu_models -- products with their true MIG tables
distance   -- PIX, PXB, PHB, NODE, SYS between two devices
node       -- one machine: devices, NVLinks, PCIe and NUMA
order      -- pairs of a machine's GPUs, and the order for first fit
wires      -- the inside of a machine as a graph (networkx)
machines   -- real machines with their true link matrices
layouts    -- where the devices of those machines sit
fabric     -- the tree of domains over the nodes (networkx), named levels, any depth
export     -- DOT and JSON of both graphs
request    -- what one pod asks of a node
gang       -- roles, segments, topology constraints, rank order, priority, tenant
claim      -- device requests and allocations in DRA terms
quantity   -- Kubernetes quantities
slices     -- ResourceSlice codec, both directions
reasons    -- why a gang was refused
"""
