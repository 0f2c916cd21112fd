"""The binaries of the testbed, made once from pinned sources into the user's cache folder.

The name of each folder is a digest of everything that the binary is made of: lock files, our own Go source, flags,
Go's version. A second start builds nothing; a changed pin builds anew beside the old one.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.testbed import versions

Tell = Callable[[str], None]
VERSION_VARIABLES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
CONTROL = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")


class CannotBuild(RuntimeError):
    """A binary could not be made; the text holds what the compiler said and what to do."""


def control(version: str = "", tell: Tell = print) -> dict[str, Path]:
    """Return the programs of the control plane and the kubelet: five names of one binary."""
    wanted = versions.kubernetes(version)
    flags = " ".join(f"-X {path}.{name}={value}" for path in VERSION_VARIABLES for name, value in _says(wanted))
    folder = _made(
        f"kubernetes-{wanted.version}",
        f"kubernetes-{wanted.version}",
        [("./control", "control")],
        ldflags=flags,
        sources=[versions.HARNESS / "control" / "main.go"],
        tell=tell,
    )
    for name in CONTROL:
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to("control")
    return {name: folder / name for name in CONTROL}


def binary(name: str, tell: Tell = print) -> Path:
    """Return one tool of ``versions.toml`` by the name of its program: kwok, containerd, ctr, jobset, kueue, lws, ..."""
    for part, pin in versions.PINS["tool"].items():
        outputs = [(_package(pin["module"], package), _program(part, package)) for package in pin["packages"]]
        if name in {program for _, program in outputs}:
            return _made(part, pin["lock"], outputs, tags=pin.get("tags", []), module=pin["module"], tell=tell) / name
    raise LookupError(f"{name} is not a program of versions.toml")


def pod_program(tell: Tell = print) -> Path:
    """Return the static program of the test image."""
    source = versions.HARNESS / "pod" / "main.go"
    return _made("pod", "", [("./pod", "pod")], sources=[source], tell=tell) / "pod"


def module_folder(name: str, tell: Tell = print) -> Path:
    """Return the YAML files of a tool's module (CRDs, webhooks, stages), as the module has them."""
    binary(name, tell)
    return _folder_of(name) / "module"


def kubectl(tell: Tell = print) -> Path:
    """Return kubectl of the newest pinned version."""
    return wheel("kubectl", "kubectl", tell)


def everything(version: str, controllers: tuple[str, ...], real: bool, tell: Tell = print) -> None:
    """Make all that a cluster needs before any of it starts, the longest first."""
    control(version, tell)
    kubectl(tell)
    for name in (*(("containerd",) if real else ()), "kwok", *controllers):
        binary(name, tell)
    if real:
        pod_program(tell)


def _says(wanted: versions.Kubernetes) -> list[tuple[str, str]]:
    """What the program says of itself; features that depend on the version go by it."""
    said = {"gitVersion": f"v{wanted.version}", "gitMajor": "1", "gitMinor": str(wanted.minor), "gitTreeState": "clean"}
    return list(said.items())


def _package(module: str, package: str) -> str:
    return module if package == "." else f"{module}/{package}"


def _program(part: str, package: str) -> str:
    """Name a program by its folder, or by its part where the folder says nothing ("cmd", ".")."""
    return part if package in (".", "cmd") else package.rsplit("/", 1)[-1]


@functools.cache
def _folder_of(part: str) -> Path:
    pin = versions.PINS["tool"][part]
    return _folder(part, pin["lock"], pin.get("tags", []), "", ())


def _folder(part: str, lock: str, tags: list[str], ldflags: str, sources: tuple[Path, ...]) -> Path:
    digest = hashlib.sha256(json.dumps([part, tags, ldflags, versions.PINS["go"]]).encode())
    for path in (*_lock_files(lock), *sources):
        digest.update(path.read_bytes())
    return versions.cache() / "bin" / f"{part}-{digest.hexdigest()[:16]}"


def _lock_files(lock: str) -> tuple[Path, ...]:
    return (versions.LOCKS / f"{lock}.mod", versions.LOCKS / f"{lock}.sum") if lock else ()


def _made(
    part: str,
    lock: str,
    outputs: list[tuple[str, str]],
    tags: list[str] | None = None,
    ldflags: str = "",
    sources: list[Path] | None = None,
    module: str = "",
    tell: Tell = print,
) -> Path:
    """Build the programs of a part unless the cache has them; other processes that want the same wait."""
    folder = _folder(part, lock, tags or [], ldflags, tuple(sources or ()))
    if (folder / "complete").exists():
        return folder
    with _alone(folder, tell):
        if (folder / "complete").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        go = go_command(tell)
        for package, program in outputs:
            argv = [
                str(go),
                "build",
                "-trimpath",
                "-v",
                "-ldflags",
                f"-s -w {ldflags}".strip(),
                "-o",
                str(folder / program),
            ]
            argv += ["-tags", ",".join(tags)] if tags else []
            argv += [f"-modfile=locks/{lock}.mod", "-mod=readonly"] if lock else []
            _compile([*argv, package], program, tell)
        if module:
            _copy_yaml(go, lock, module, folder / "module")
        (folder / "complete").touch()
    return folder


@contextlib.contextmanager
def _alone(folder: Path, tell: Tell) -> Iterator[None]:
    """Hold the lock of a folder; the kernel lets it go when the process ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"waiting for another build of {folder.name}")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _compile(argv: list[str], program: str, tell: Tell) -> None:
    """Run the compiler and tell from time to time how many packages it has done."""
    began, told, packages, said = time.monotonic(), 0.0, 0, []
    tell(f"building {program}")
    with subprocess.Popen(
        argv, cwd=versions.HARNESS, env=_environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            packages += 1
            said = [*said[-40:], line.rstrip()]
            spent = time.monotonic() - began
            if spent - told >= 5:
                told = spent
                tell(f"building {program}: {packages} packages compiled, {_minutes(spent)}")
    if running.returncode:
        raise CannotBuild(f"{program} could not be built:\n" + "\n".join(said))
    tell(f"built {program} in {_minutes(time.monotonic() - began)}")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _environment() -> Mapping[str, str]:
    flags = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    return os.environ | flags


def _copy_yaml(go: Path, lock: str, module: str, target: Path) -> None:
    """Keep a module's YAML files beside its binary, so that a later start needs neither Go nor the module."""
    argv = [str(go), "list", "-m", "-mod=readonly", f"-modfile=locks/{lock}.mod", "-f", "{{.Dir}}", module]
    found = subprocess.run(argv, cwd=versions.HARNESS, env=_environment(), capture_output=True, text=True, check=True)
    source = Path(found.stdout.strip())
    for path in source.rglob("*.yaml"):
        if not {"test", "examples", "site", "vendor"} & set(path.relative_to(source).parts[:1]):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


@functools.cache
def go_command(tell: Tell = print) -> Path:
    """Return a Go that is new enough: the machine's, or the one of the PyPI wheel."""
    found = shutil.which("go") or ("/usr/local/go/bin/go" if Path("/usr/local/go/bin/go").exists() else None)
    if found and _new_enough(Path(found)):
        return Path(found)
    return wheel("go", "go", tell)


def _new_enough(go: Path) -> bool:
    said = subprocess.run(
        [str(go), "env", "GOVERSION"], capture_output=True, text=True, check=False, env=_environment()
    )
    number = re.match(r"go(\d+)\.(\d+)", said.stdout)
    wanted = tuple(int(part) for part in versions.PINS["go"].split("."))
    return number is not None and (int(number[1]), int(number[2])) >= wanted


def wheel(lock: str, program: str, tell: Tell) -> Path:
    """Install a wheel that carries a program into an environment of its own."""
    text = versions.LOCKS / f"{lock}.txt"
    folder = versions.cache() / "wheel" / f"{lock}-{hashlib.sha256(text.read_bytes()).hexdigest()[:16]}"
    if not (folder / "complete").exists():
        with _alone(folder, tell):
            tell(f"fetching {program}")
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], f"an environment for {program}")
            argv = [
                uv() or "uv",
                "pip",
                "install",
                "--quiet",
                "--python",
                str(folder / "bin" / "python"),
                "--require-hashes",
            ]
            _run([*argv, "-r", str(text)], f"the wheel of {program}")
            (folder / "complete").touch()
    return _program_in(folder, program)


def uv() -> str | None:
    """Return the uv of our own environment, which `make setup` installs, or the machine's."""
    return shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")


def _program_in(folder: Path, program: str) -> Path:
    found = [*(folder / "bin").glob(program), *folder.glob(f"lib/*/site-packages/**/bin/{program}")]
    if not found:
        raise CannotBuild(f"the wheel in {folder} has no program {program}")
    return found[0]


def _run(argv: list[str], what: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"{what} could not be installed:\n{done.stderr[-2000:]}")
