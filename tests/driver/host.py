"""A node in a folder: files of the GPU driver, its programs, and GPU instances that survive the process.

The instances are in a file, so that a driver which is killed finds them again as it would on real hardware.
"""

import functools
import json
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from dra_driver import cdi as cdi_files
from dra_driver import checkpoint, claim, container, host_files, locks, metadata, mig, programs, sharing, state
from scheduler.model import machines, node

DRIVER = "gpu.muster.dev"
PLUGINS = "plugins/gpu.muster.dev"

SMI = """#!/bin/sh
echo "$@" >> "{folder}/smi.log"
[ ! -e "{folder}/smi.broken" ] || {{ echo "Unable to set the time slice" >&2; exit 9; }}
"""

# The control daemon of MPS, as far as the driver sees it: with -f it stays, unless another has the same pipes; without it
# sends a command.
MPS = """#!/bin/sh
control="$CUDA_MPS_PIPE_DIRECTORY/control"
if [ "$1" = -f ]; then
  if [ -e "$control" ] && kill -0 "$(cat "$control")" 2>/dev/null; then
    echo "An instance of this daemon is already running" | tee -a "{folder}/mps.refused"
    exit 1
  fi
  echo "$CUDA_VISIBLE_DEVICES" >> "{folder}/mps.started"
  [ ! -e "{folder}/mps.broken" ] || exit 1
  echo $$ > "$control"
  while [ -e "$control" ]; do sleep 0.05; done
  exit 0
fi
read command
if ! [ -e "$control" ] || ! kill -0 "$(cat "$control")" 2>/dev/null; then
  echo "Cannot find MPS control daemon process"
  exit 1
fi
echo "$command" >> "{folder}/mps.log"
[ "$command" != quit ] || rm "$control"
"""


def machine(kind: str = "dgx-a100", *, mig_gpus: Sequence[int] = (), name: str = "node-a") -> node.NodeTopology:
    """Return a machine of a kind with some GPUs in MIG mode."""
    found = machines.build(kind, name)
    gpus = tuple(replace(gpu, mig_enabled=gpu.index in mig_gpus) for gpu in found.gpus)
    return replace(found, gpus=gpus)


def _one_at_a_time(call: Callable) -> Callable:
    @functools.wraps(call)
    def locked(self: "Hardware", *args: object) -> object:
        with self._lock:
            return call(self, *args)

    return locked


class Hardware:
    """GPU instances of a node, in a file."""

    def __init__(self, root: Path, topology: node.NodeTopology) -> None:
        self.root, self.topology, self.path = root, topology, root / "hardware.json"
        self.failing: set[str] = set()
        self._lock = threading.RLock()  # calls come from several threads, for different GPUs

    def _all(self) -> list[mig.Instance]:
        return [mig.Instance(**row) for row in json.loads(self.path.read_text())] if self.path.exists() else []

    def _write(self, rows: Sequence[mig.Instance]) -> None:
        self.path.write_text(json.dumps([asdict(row) for row in rows]))

    def _fail(self, call: str) -> None:
        if call in self.failing:
            raise mig.HardwareError(f"{call}: Insufficient Resources")

    @_one_at_a_time
    def instances(self, gpu_uuid: str) -> list[mig.Instance]:
        self._fail("instances")
        return [row for row in self._all() if row.gpu_uuid == gpu_uuid]

    @_one_at_a_time
    def create_gpu_instance(self, gpu_uuid: str, profile_id: int, start: int) -> mig.Instance:
        self._fail("create_gpu_instance")
        gpu = next(gpu for gpu in self.topology.gpus if gpu.uuid == gpu_uuid)
        assert gpu.mig_enabled, f"{gpu_uuid} is not in MIG mode"
        profile = next(p for p in gpu.model.mig if p.profile_id == profile_id)
        rows, there = self._all(), self.instances(gpu_uuid)
        for other in there:
            if other.start < start + profile.memory_slices and start < other.start + other.size:
                raise mig.HardwareError(f"{gpu_uuid}: create GPU instance: Insufficient Resources")
        number = min(set(range(1, 16)) - {row.gpu_instance for row in there})
        made = mig.Instance(gpu_uuid, profile_id, start, profile.memory_slices, number)
        self._write([*rows, made])
        return made

    @_one_at_a_time
    def create_compute_instance(self, instance: mig.Instance) -> mig.Instance:
        self._fail("create_compute_instance")
        uuid = f"MIG-{instance.gpu_uuid[4:12]}-{instance.gpu_instance}-{instance.profile_id}-{instance.start}"
        made = replace(instance, compute_instance=0, uuid=uuid)
        self._replace(instance, made)
        gpu = next(gpu for gpu in self.topology.gpus if gpu.uuid == instance.gpu_uuid)
        folder = self.root / f"proc/driver/nvidia/capabilities/gpu{gpu.index}/mig/gi{made.gpu_instance}"
        (folder / "ci0").mkdir(parents=True, exist_ok=True)
        minor = 100 * gpu.index + 10 * made.gpu_instance
        (folder / "access").write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
        (folder / "ci0/access").write_text(f"DeviceFileMinor: {minor + 1}\nDeviceFileMode: 292\n")
        return made

    @_one_at_a_time
    def destroy_compute_instance(self, instance: mig.Instance) -> None:
        self._fail("destroy_compute_instance")
        self._replace(instance, replace(instance, compute_instance=-1, uuid=""))

    @_one_at_a_time
    def destroy_gpu_instance(self, instance: mig.Instance) -> None:
        self._fail("destroy_gpu_instance")
        there = {(row.gpu_uuid, row.gpu_instance): row for row in self._all()}
        assert there[instance.gpu_uuid, instance.gpu_instance].compute_instance < 0, "In Use"
        del there[instance.gpu_uuid, instance.gpu_instance]
        self._write(list(there.values()))

    def _replace(self, old: mig.Instance, new: mig.Instance) -> None:
        key = (old.gpu_uuid, old.gpu_instance)
        self._write([new if (row.gpu_uuid, row.gpu_instance) == key else row for row in self._all()])

    def reboot(self) -> None:
        """GPU instances do not outlive a boot."""
        self._write([])


class Claims:
    """Claims of an API server, as objects by namespace and name."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], state.Object] = {}
        self.reachable = True

    def add(self, obj: state.Object) -> claim.Reference:
        meta = obj["metadata"]
        self.objects[meta["namespace"], meta["name"]] = obj
        return claim.Reference(meta["namespace"], meta["name"], claim.ClaimUid(meta["uid"]))

    async def get(self, reference: claim.Reference) -> state.Object:
        if not self.reachable:
            raise state.UnreachableError("the API server does not answer")
        found = self.objects.get((reference.namespace, reference.name))
        if found is None:
            raise claim.ClaimError(f"{reference}: not found")
        return found

    async def of_pod(self, namespace: str, pod: str) -> frozenset[str]:
        if not self.reachable:
            raise state.UnreachableError("the API server does not answer")
        return frozenset(
            name
            for (space, name), obj in self.objects.items()
            if space == namespace and pod in [one["name"] for one in obj["status"].get("reservedFor", ())]
        )

    async def allocated(self) -> list[state.Object]:
        if not self.reachable:
            raise state.UnreachableError("the API server does not answer")
        return [
            obj for obj in self.objects.values() if obj["status"].get("allocation") and obj["status"].get("reservedFor")
        ]


class Here:
    """The machine, which a test may change."""

    def __init__(self, topology: node.NodeTopology) -> None:
        self.topology = topology

    def current(self) -> node.NodeTopology:
        return self.topology


def lay_out(root: Path, topology: node.NodeTopology) -> None:
    """Write the host's files for a machine."""
    (root / "dev").mkdir(parents=True)
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"):
        (root / "dev" / name).touch()
    for gpu in topology.gpus:
        (root / f"dev/nvidia{gpu.index}").touch()
        folder = root / "proc/driver/nvidia/gpus" / gpu.pci_bus_id
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {gpu.model.name}\nDevice Minor: \t {gpu.index}\n")
    (root / "proc/devices").write_text("Character devices:\n195 nvidia\n238 nvidia-caps\n")
    (root / "proc/sys/kernel/random").mkdir(parents=True)
    (root / "proc/sys/kernel/random/boot_id").write_text("11111111-0000-0000-0000-000000000000\n")
    (root / "usr/bin").mkdir(parents=True)
    for name, text in (("nvidia-smi", SMI), ("nvidia-cuda-mps-control", MPS)):
        path = root / "usr/bin" / name
        path.write_text(text.format(folder=root))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    for library in ("libcuda.so.580.126.20", "libnvidia-ml.so.580.126.20"):
        path = root / "usr/lib/x86_64-linux-gnu" / library
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def parts(
    root: Path, topology: node.NodeTopology, claims: state.Claims, *, dynamic_mig: bool = True, hardware: object = None
) -> state.Parts:
    """Return what a state needs on a node in `root`; call it again for another instance or after a crash."""
    folder = root / PLUGINS
    for name in ("locks", "mps"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    found = programs.Programs(root / "usr/bin/nvidia-smi", root / "usr/bin/nvidia-cuda-mps-control")
    daemons = sharing.Daemons(folder / "mps", str(folder / "mps"), found, memory_mib=0)
    device = hardware or Hardware(root, topology)
    files = host_files.HostFiles(root, str(root))
    return state.Parts(
        DRIVER,
        checkpoint.Store(folder),
        locks.Locks(folder / "locks"),
        cdi_files.Folder(root / "var/run/cdi", DRIVER),
        metadata.Folder(folder / "metadata", str(folder / "metadata"), DRIVER),
        container.Source(files, device, daemons, lambda: "580.126.20"),
        device,
        daemons,
        found,
        Here(topology),
        claims,
        dynamic_mig,
    )
