"""Accelerators of other makers are found in sysfs, published, and given to containers; alone, and beside GPUs."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dra_driver import host_files, mig
from dra_driver.probe import host, pci, roots
from scheduler.model import device, machines, node, slices
from tests.hardware import library, machine, sysfs

CARD = device.Accelerator(0, "fpga", "Alveo-U280", "0000:e2:00.0", "", "pci0000:e0", 1)
SECOND = device.Accelerator(1, "npu", "Gaudi3", "0000:e3:00.0", "", "pci0000:e0", 1)


def fpga_node() -> node.NodeTopology:
    """Return a machine without GPUs."""
    bare = machines.build("l40s-8", "node-a")
    return replace(bare, machine="cpu", gpus=(), nvlinks=(), accelerators=(CARD, SECOND))


def test_finds_what_the_mapping_knows(tmp_path: Path) -> None:
    sysfs.render(replace(machines.build("l40s-8", "node-a"), accelerators=(CARD,)), tmp_path)
    assert pci.accelerators(roots.Root(tmp_path), pci.mapping()) == (CARD,)
    assert pci.accelerators(roots.Root(tmp_path), {}) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4334: {kind: fpga, model: x}", "4334"),
        ('"10EE:500c": {kind: fpga, model: x}', "10EE:500c"),
        ('"10ee:500c": {kind: fpga}', "10ee:500c.model: Field required"),
        ('"10ee:500c": {kind: fpga, model: x, more: 1}', "10ee:500c.more: Extra inputs"),
        ('"10ee:500c": {kind: "FPGA card", model: x}', "10ee:500c.kind"),
        ("[1, 2]", "document: Input should be a valid dictionary"),
        ("{", "map.yaml"),
    ],
)
def test_a_wrong_mapping_is_told(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "map.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"map\.yaml") as told:
        pci.mapping(file)
    assert said in str(told.value)


def test_a_node_without_gpus_is_published_by_its_accelerators(tmp_path: Path) -> None:
    want = fpga_node()
    sysfs.render(want, tmp_path)
    probe = host.probe(roots.Root(tmp_path), "node-a", Path("/nowhere/libnvidia-ml.so.1"))
    found = probe.discover().topology
    assert found.accelerators == want.accelerators and not found.gpus
    assert [nic.name for nic in found.nics] == [nic.name for nic in want.nics]
    devices = [entry["name"] for item in slices.encode(found) for entry in item["spec"].get("devices") or ()]
    assert {"accelerator-0", "accelerator-1"} < set(devices)
    assert slices.decode(slices.encode(found)).accelerators == want.accelerators
    assert probe.reading("GPU-x").lost, "one that was here before"
    with pytest.raises(mig.HardwareError, match="no GPU that NVML knows"):
        probe.instances("GPU-x")


def test_gpus_do_not_vanish_because_their_library_is_missing(tmp_path: Path) -> None:
    sysfs.render(replace(machines.build("l40s-8", "node-a"), accelerators=(CARD,)), tmp_path)
    with pytest.raises(mig.HardwareError, match=r"an NVIDIA GPU is at .* and 7 more: install or repair its driver"):
        host.probe(roots.Root(tmp_path), "node-a", Path("/nowhere/libnvidia-ml.so.1"))


@pytest.mark.parametrize(
    ("folder", "driver"),
    [("usr/lib64", "/"), ("usr/lib/aarch64-linux-gnu", "/"), ("usr/lib/x86_64-linux-gnu", "/run/nvidia/driver")],
)
def test_nvml_is_found_where_distributions_put_it(tmp_path: Path, folder: str, driver: str) -> None:
    """Also through an absolute link, as alternatives of Debian make it: it begins at the host's root, not at ours."""
    root, home = roots.Root(tmp_path), tmp_path / driver.lstrip("/")
    assert host.found_library(root, driver) is None
    (home / folder).mkdir(parents=True)
    (home / "etc/alternatives").mkdir(parents=True)
    (home / folder / "libnvidia-ml.so.1").symlink_to("/etc/alternatives/nvml")
    (home / "etc/alternatives/nvml").symlink_to(f"/{folder}/libnvidia-ml.so.580.65.06")
    assert host.found_library(root, driver) is None, "a link to nothing is no library"
    (home / folder / "libnvidia-ml.so.580.65.06").touch()
    assert host.found_library(root, driver) == home / folder / "libnvidia-ml.so.580.65.06"


def test_nvml_below_the_root_is_the_one_that_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = machines.build("l40s-8", "node-a")
    sysfs.render(built, tmp_path / "root")
    monkeypatch.setenv("MUSTER_NVML_STATE", str(machine.render(built, tmp_path)))
    (tmp_path / "root/usr/lib64").mkdir(parents=True)
    shutil.copy(library.folder() / library.NAME, tmp_path / "root/usr/lib64/libnvidia-ml.so.1")
    probe = host.probe(roots.Root(tmp_path / "root"), "node-a")
    try:
        assert len(probe.discover().topology.gpus) == 8
    finally:
        probe.close()


def test_a_node_with_nothing_says_so(tmp_path: Path) -> None:
    sysfs.render(replace(fpga_node(), accelerators=()), tmp_path)
    with pytest.raises(mig.HardwareError, match="there is nothing to publish"):
        host.probe(roots.Root(tmp_path), "node-a", Path("/nowhere/libnvidia-ml.so.1"))


def test_a_container_gets_the_nodes_of_its_accelerator(tmp_path: Path) -> None:
    sysfs.render(fpga_node(), tmp_path)
    files = host_files.HostFiles(tmp_path, str(tmp_path))
    (one,) = files.accelerator_nodes(CARD.pci_bus_id)
    assert (one.path, one.host_path) == ("/dev/accel/accel0", str(tmp_path / "dev/accel/accel0"))
    (tmp_path / "dev/accel/accel0").unlink()
    with pytest.raises(host_files.HostFileError, match=r"accelerator 0000:e2:00\.0 has no device node"):
        files.accelerator_nodes(CARD.pci_bus_id)


def test_of_a_graphics_card_only_the_render_node_is_given(tmp_path: Path) -> None:
    """AMD's compute interface is one node for all cards."""
    sysfs.render(fpga_node(), tmp_path)
    folder = tmp_path / "sys/bus/pci/devices" / SECOND.pci_bus_id / "drm"
    for name, number in (("card1", 1), ("renderD129", 129)):
        (folder / name).mkdir(parents=True)
        (folder / name / "uevent").write_text(f"DEVNAME=dri/{name}\n")
        sysfs.node_file(tmp_path / "dev/dri" / name, 226, number)
    sysfs.node_file(tmp_path / "dev/kfd", 510, 0)
    found = [one.path for one in host_files.HostFiles(tmp_path).accelerator_nodes(SECOND.pci_bus_id)]
    assert found == ["/dev/accel/accel1", "/dev/dri/renderD129", "/dev/kfd"]


def test_a_name_of_the_kernel_does_not_leave_dev(tmp_path: Path) -> None:
    sysfs.render(fpga_node(), tmp_path)
    card = tmp_path / "sys/bus/pci/devices" / CARD.pci_bus_id / "accel/accel0/uevent"
    card.write_text("DEVNAME=../proc/devices\n")
    with pytest.raises(host_files.HostFileError):
        host_files.HostFiles(tmp_path).accelerator_nodes(CARD.pci_bus_id)
