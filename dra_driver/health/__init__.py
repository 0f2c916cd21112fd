"""Health of the devices: one model drives taints, the health stream and metrics."""
