"""The scheduler's HTTP face.

wire     -- the extender's JSON, capitalised and null-tolerant, bounded in size
extender -- what each verb answers, pure, behind the protocol `Decisions`
asked    -- what a pod asks through an extended resource
first_fit -- the devices that kube-scheduler will give a pod without a plan
answers  -- those decisions from plans, a snapshot and the engine's scoring
server   -- routes, metrics and the process that listens
tls      -- the certificate, read again when its files change
"""
