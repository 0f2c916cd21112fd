"""A real node: containerd and kubelet in namespaces of their own, with their own folders, ports and cgroup.

The PID and mount namespaces make the node one thing: when its first process is killed, containers, shims and mounts go
with it. The network is the machine's.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from tests.testbed import build, cgroups, image, inside, pki, ports, process

READY_S = 60.0


class Lacking(RuntimeError):
    """This machine cannot run a real node; the text says what is missing and the remedy."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the parts of a node are on this machine."""

    kubelet: Path
    containerd: Path
    runc: Path
    cni: Path


def programs(kubelet: Path) -> Programs:
    """Find runc and the CNI plugins; build containerd."""
    runc, cni = shutil.which("runc", path=os.environ["PATH"] + ":/usr/sbin:/sbin"), cni_folder()
    if runc is None or cni is None:
        raise Lacking("runc or the CNI plugins are missing: apt-get install runc containernetworking-plugins")
    return Programs(kubelet, build.binary("containerd"), Path(runc), cni)


def cni_folder() -> Path | None:
    return next((path for path in (Path("/usr/lib/cni"), Path("/opt/cni/bin")) if (path / "host-local").exists()), None)


class Node:
    """One kubelet with its containerd.

    `root` is the kubelet's root folder (``plugins_registry/`` is in it), `cdi` the folder of CDI files, `node.name` the name of
    the Node object.
    """

    def __init__(
        self,
        name: str,
        index: int,
        folder: Path,
        found: Programs,
        kubeconfig: Path,
        authority: pki.Authority,
        parts: process.Group,
    ) -> None:
        self.name, self.index, self.folder, self.programs = name, index, folder, found
        self.kubeconfig, self.authority, self.parts = kubeconfig, authority, parts
        self.cgroup = f"muster-{os.getpid()}-{folder.parent.name}-{name}"[:60]
        self.root, self.cdi, self.logs = folder / "k", folder / "cdi", folder / "logs"
        self.runtime_socket = folder / "c.sock"
        self.part = f"node-{name}"
        self.port, self.healthz_port = ports.free(2)

    def start(self) -> None:
        """Write the configuration and start the node; it is registered, not yet Ready, when this returns."""
        for path in (self.folder, self.root, self.cdi, self.logs, self.folder / "net.d"):
            path.mkdir(parents=True, exist_ok=True)
        cgroups.create(self.cgroup)
        image.write(self.folder / "images.tar", build.pod_program())
        self._write_containerd()
        self._write_kubelet()
        settings = self.folder / "node.json"
        settings.write_text(json.dumps(self._inside()))
        spaces = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "--"]
        argv = [*spaces, sys.executable, "-E", inside.__file__, str(settings)]
        path = f"{self.programs.containerd.parent}:{self.programs.runc.parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
        started = self.parts.start(self.part, argv, env={"PATH": path})
        self.parts.wait(started, self.answers, READY_S)

    def answers(self) -> bool:
        """Tell whether the kubelet listens; `OSError` while it does not."""
        with socket.create_connection(("127.0.0.1", self.healthz_port), timeout=1):
            return True

    def processes(self, program: str) -> list[psutil.Process]:
        """Return the node's processes with this program name, as the machine sees them."""
        started = self.parts.parts.get(self.part)
        if started is None or not started.running:
            return []
        return [one for one in psutil.Process(started.pid).children(recursive=True) if one.name() == program]

    def restart_kubelet(self) -> None:
        """Kill the kubelet; the node's first process starts it again."""
        for one in self.processes("kubelet"):
            one.kill()

    def pod_log(self, namespace: str, pod: str, container: str = "") -> str:
        """Return what the containers of a pod wrote, without the runtime's prefixes."""
        found = sorted(self.logs.glob(f"pods/{namespace}_{pod}_*/{container or '*'}/*.log"))
        lines = [line for path in found for line in path.read_text(errors="replace").splitlines()]
        return "\n".join(line.split(" ", 3)[3] for line in lines if line.count(" ") >= 3)

    def stop(self) -> None:
        """Kill the node with everything in it, and remove its cgroup."""
        started = self.parts.parts.pop(self.part, None)
        if started is not None:
            inner = psutil.Process(started.pid).children(recursive=True) if started.running else []
            started.kill()  # SIGKILL, which unshare cannot hold back, and --kill-child passes on
            psutil.wait_procs(inner, timeout=10)
        cgroups.remove(self.cgroup)

    def _inside(self) -> dict[str, object]:
        """What the first process of the namespace needs to know."""
        under = {"run": "/run/containerd", "cni": "/var/lib/cni", "links": "/var/log/containers", "netns": "/run/netns"}
        containerd = self.programs.containerd
        return {
            "binds": [(str(self.folder / name), target) for name, target in under.items()],
            "logs": str(self.logs),
            "image": str(self.folder / "images.tar"),
            "containerd": [str(containerd), "--config", str(self.folder / "containerd.toml")],
            "ctr": [str(containerd.parent / "ctr"), "--address", str(self.runtime_socket)],
            "kubelet": [
                str(self.programs.kubelet),
                f"--config={self.folder / 'kubelet.yaml'}",
                f"--kubeconfig={self.kubeconfig}",
                f"--hostname-override={self.name}",
                f"--root-dir={self.root}",
                f"--cert-dir={self.folder / 'certs'}",
                f"--volume-plugin-dir={self.folder / 'volume-plugins'}",
                f"--node-labels=muster.dev/testbed=real,muster.dev/rack=real-{self.index // 2}",
                "--v=2",
            ],
        }

    def _write_containerd(self) -> None:
        (self.folder / "containerd.toml").write_text(
            CONTAINERD.format(folder=self.folder, socket=self.runtime_socket, runc=self.programs.runc)
            + CONTAINERD_CRI.format(folder=self.folder, cdi=self.cdi, cni=self.programs.cni, pause=image.PAUSE)
        )
        network = {
            "cniVersion": "1.0.0",
            "name": "testbed",
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self.folder / "ipam"),
                        "ranges": [[{"subnet": f"10.244.{self.index % 250}.0/24"}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
        (self.folder / "net.d" / "10-testbed.conflist").write_text(json.dumps(network))

    def _write_kubelet(self) -> None:
        serving = self.authority.issue(self.name, (self.name, "127.0.0.1", "localhost", *_addresses()))
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.authority.ca)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.cert),
            "tlsPrivateKeyFile": str(serving.key),
            "port": self.port,
            "readOnlyPort": 0,
            "healthzPort": self.healthz_port,
            "containerRuntimeEndpoint": f"unix://{self.runtime_socket}",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            "evictionHard": dict.fromkeys(("memory.available", "nodefs.available", "imagefs.available"), "0%"),
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "oomScoreAdj": 0,  # lowering it needs CAP_SYS_RESOURCE
            "makeIPTablesUtilChains": False,
            "podLogsDir": str(self.logs / "pods"),
            "maxPods": 250,
            "kubeAPIQPS": 500,
            "kubeAPIBurst": 500,
            "nodeStatusUpdateFrequency": "5s",
            "shutdownGracePeriod": "0s",
        }
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(settings))


def _addresses() -> set[str]:
    """Return the machine's IPv4 addresses: the kubelet reports one of them, and the API server calls it there."""
    found = (one for group in psutil.net_if_addrs().values() for one in group)
    return {one.address for one in found if one.family == socket.AF_INET}


CONTAINERD = """version = 3
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{socket}"
[plugins.'io.containerd.internal.v1.opt']
path = "{folder}/opt"
[plugins.'io.containerd.nri.v1.nri']
disable = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
Root = "{folder}/runc"
"""

CONTAINERD_CRI = """[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{pause}"
[plugins.'io.containerd.cri.v1.runtime']
cdi_spec_dirs = ["{cdi}"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
disable_apparmor = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{cni}"]
conf_dir = "{folder}/net.d"
"""
