"""A real Kubernetes cluster on one machine: etcd, API server, controllers, scheduler, kubelets, containerd.

    python -m tests.testbed up | down | status | logs | env | doctor

versions    every part that is not ours, pinned
build       makes the binaries once, into the user's cache folder
process     child processes that end with their parent
pki         one certificate authority for each cluster
control     etcd, kube-apiserver, kube-controller-manager, kube-scheduler
node        real nodes: containerd and kubelet
cluster     all of it together
serve       the process that holds a named cluster between commands
fixtures    the same for pytest
"""
