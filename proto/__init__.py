"""Protocol definitions of the kubelet and of Envoy; nothing is here yet."""
