"""The control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, all on 127.0.0.1."""

from __future__ import annotations

import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.testbed import audit, kubeconfig, pki, ports, process, versions

READY_S = 60.0
USERS = {  # user: groups, as kubeadm gives them
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
}


class ControlPlane:
    """A running control plane; `server` is its URL, `kubeconfig(user)` a file for one of its users."""

    def __init__(
        self,
        folder: Path,
        version: versions.Kubernetes,
        bins: Mapping[str, Path],
        authority: pki.Authority,
        parts: process.Group,
        nodes: tuple[str, ...] = (),
        audited: str = "",
    ) -> None:
        self.audit = audit.Audit(folder, audited) if audited else None
        self.folder, self.version, self.bins = folder, version, bins
        self.authority, self.parts = authority, parts
        self.users = USERS | {f"system:node:{node}": "system:nodes" for node in nodes}
        self.tokens = {user: secrets.token_hex(16) for user in self.users}
        self.etcd_port, self.peer_port, self.port, self.manager_port, self.scheduler_port = ports.free(5)
        self.server = f"https://127.0.0.1:{self.port}"
        self.tls = ssl.create_default_context(cafile=str(authority.ca))

    def kubeconfig(self, user: str = "admin") -> Path:
        name = "kubeconfig" if user == "admin" else f"{user.replace(':', '-')}.kubeconfig"
        return kubeconfig.write(self.folder / name, self.server, self.authority.ca, self.tokens[user])

    def start(self, scheduler: Mapping[str, Any] | None = None) -> None:
        """Start all four; returns when each says that it is ready."""
        self.start_etcd()
        self.start_apiserver()
        self.start_controllers()
        self.start_scheduler(scheduler)

    def start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.peer_port}"
        argv = [self.bins["etcd"], "--name=testbed", f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync"]
        argv += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}", "--logger=zap"]
        argv += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", "--log-level=warn"]
        argv += [f"--initial-cluster=testbed={peer}", "--quota-backend-bytes=8589934592"]
        self.parts.start("etcd", argv, ready=lambda: _says_ok(f"{client}/health"), deadline_s=READY_S)

    def start_apiserver(self) -> None:
        pair = self.authority.issue("kube-apiserver", ("127.0.0.1", "localhost", "kubernetes.default.svc", "10.96.0.1"))
        kubelet = self.authority.issue("kube-apiserver-kubelet-client", group="system:masters")
        accounts = self.authority.issue("service-accounts")
        argv = [self.bins["kube-apiserver"], f"--etcd-servers=http://127.0.0.1:{self.etcd_port}"]
        argv += ["--bind-address=127.0.0.1", f"--secure-port={self.port}", "--endpoint-reconciler-type=none"]
        argv += [f"--tls-cert-file={pair.cert}", f"--tls-private-key-file={pair.key}"]
        argv += [f"--client-ca-file={self.authority.ca}", f"--token-auth-file={self._token_file()}"]
        argv += [f"--kubelet-client-certificate={kubelet.cert}", f"--kubelet-client-key={kubelet.key}"]
        argv += [f"--kubelet-certificate-authority={self.authority.ca}"]
        argv += ["--kubelet-preferred-address-types=InternalIP,Hostname"]
        argv += ["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"]
        argv += ["--service-account-issuer=https://kubernetes.default.svc", "--allow-privileged=true"]
        argv += [f"--service-account-key-file={accounts.cert}", f"--service-account-signing-key-file={accounts.key}"]
        argv += ["--service-cluster-ip-range=10.96.0.0/16", "--max-requests-inflight=3000"]
        argv += ["--max-mutating-requests-inflight=1000", f"--cert-dir={self.folder / 'apiserver'}"]
        argv += self._gates()
        if self.audit is not None:
            argv += self.audit.flags()
        if self.version.apis:
            argv += ["--runtime-config=" + ",".join(f"{api}=true" for api in self.version.apis)]
        self.parts.start("kube-apiserver", argv, ready=lambda: self.says_ok("/readyz"), deadline_s=READY_S)

    def start_controllers(self) -> None:
        accounts = self.authority.issue("service-accounts")
        config = self.kubeconfig("system:kube-controller-manager")
        argv = [self.bins["kube-controller-manager"], *self._client_flags(config), "--leader-elect=false"]
        argv += [f"--secure-port={self.manager_port}", "--use-service-account-credentials=true"]
        argv += [f"--service-account-private-key-file={accounts.key}", f"--root-ca-file={self.authority.ca}"]
        argv += ["--kube-api-qps=2000", "--kube-api-burst=2000", "--concurrent-job-syncs=20", *self._gates()]
        self._start_secure("kube-controller-manager", argv, self.manager_port)

    def start_scheduler(self, changes: Mapping[str, Any] | None = None) -> None:
        """Start the stock scheduler; `changes` are added to its configuration (extenders, profiles)."""
        config = self.kubeconfig("system:kube-scheduler")
        settings = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": str(config), "qps": 5000, "burst": 5000},
            "leaderElection": {"leaderElect": False},
        } | dict(changes or {})
        path = self.folder / "kube-scheduler.yaml"
        path.write_text(yaml.safe_dump(settings))
        argv = [self.bins["kube-scheduler"], f"--config={path}", f"--secure-port={self.scheduler_port}", "--v=2"]
        argv += ["--bind-address=127.0.0.1", f"--authentication-kubeconfig={config}", *self._gates()]
        argv += [f"--authorization-kubeconfig={config}", f"--cert-dir={self.folder / 'kube-scheduler'}"]
        argv += ["--authentication-tolerate-lookup-failure=true"]
        self._start_secure("kube-scheduler", argv, self.scheduler_port)

    def says_ok(self, path: str) -> bool:
        """Ask the API server as admin."""
        asked = urllib.request.Request(self.server + path, headers={"Authorization": f"Bearer {self.tokens['admin']}"})
        try:
            with urllib.request.urlopen(asked, timeout=2, context=self.tls) as answer:
                return bool(answer.status == 200)
        except (urllib.error.HTTPError, TimeoutError):
            return False

    def _client_flags(self, config: Path) -> list[str]:
        flags = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
        return [*(f"--{flag}={config}" for flag in flags), "--bind-address=127.0.0.1"]

    def _start_secure(self, name: str, argv: list[str | Path], port: int) -> None:
        if not any(str(one).startswith("--cert-dir=") for one in argv):
            argv = [*argv, f"--cert-dir={self.folder / name}"]
        url = f"https://127.0.0.1:{port}/healthz"
        unverified = ssl.create_default_context()  # its certificate is made by itself, and the answer is one word
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        self.parts.start(name, argv, ready=lambda: _says_ok(url, unverified), deadline_s=READY_S)

    def _gates(self) -> list[str]:
        return (
            ["--feature-gates=" + ",".join(f"{gate}=true" for gate in self.version.gates)] if self.version.gates else []
        )

    def _token_file(self) -> Path:
        """Write one line for each user: token, name, uid, groups."""
        path = self.folder / "tokens.csv"
        path.touch(mode=0o600)
        path.write_text(
            "".join(f'{self.tokens[user]},{user},{user},"{groups}"\n' for user, groups in self.users.items())
        )
        return path


def _says_ok(url: str, tls: ssl.SSLContext | None = None) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2, context=tls) as answer:
            return bool(answer.status == 200)
    except (urllib.error.HTTPError, TimeoutError):
        return False
