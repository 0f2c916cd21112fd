"""LeaderWorkerSet, the controller of replicas that are one leader pod with its workers."""

from __future__ import annotations

from typing import Any

from tests.testbed.controllers import controller

PROBE = {
    "apiVersion": "leaderworkerset.x-k8s.io/v1",
    "kind": "LeaderWorkerSet",
    "metadata": {"name": "webhook-probe", "namespace": "default"},
    "spec": {
        "replicas": 1,
        "leaderWorkerTemplate": {
            "size": 2,
            "workerTemplate": {"spec": {"containers": [{"name": "main", "image": "none"}]}},
        },
    },
}


def start(home: controller.Cluster) -> controller.Running:
    return controller.start(home, LWS)


def _config(seat: controller.Seat) -> dict[str, Any]:
    return {
        "apiVersion": "config.lws.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"host": "127.0.0.1", "port": seat.webhook, "certDir": str(seat.certificates)},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{seat.health}"},
        "metrics": {"bindAddress": f"127.0.0.1:{seat.metrics}"},  # with a self-signed certificate: it knows no other
    }


LWS = controller.Controller("lws", _config, PROBE, ("spec", "networkConfig", "subdomainPolicy"))
