"""One suite for kube-apiserver and for the embedded server: what differs is a defect of the embedded one."""
