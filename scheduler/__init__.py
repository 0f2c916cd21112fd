"""Places gangs of GPU pods on the right devices of a Kubernetes cluster, and proves why."""
