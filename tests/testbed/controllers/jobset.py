"""JobSet, the controller of sets of Jobs."""

from __future__ import annotations

from typing import Any

from tests.testbed.controllers import controller

PROBE = {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {"name": "webhook-probe", "namespace": "default"},
    "spec": {
        "replicatedJobs": [
            {
                "name": "probe",
                "template": {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "none"}]}}}},
            }
        ]
    },
}


def start(home: controller.Cluster) -> controller.Running:
    return controller.start(home, JOBSET)


def _config(seat: controller.Seat) -> dict[str, Any]:
    return {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"host": "127.0.0.1", "port": seat.webhook, "certDir": str(seat.certificates)},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{seat.health}"},
        "metrics": {"bindAddress": f"127.0.0.1:{seat.metrics}", "certDir": str(seat.certificates)},
    }


JOBSET = controller.Controller("jobset", _config, PROBE, ("spec", "network", "publishNotReadyAddresses"))
