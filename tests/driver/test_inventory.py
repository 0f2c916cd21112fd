"""A GPU that does not answer any more stays published in its place, until it is back."""

from dataclasses import replace
from pathlib import Path

import pytest

from dra_driver import inventory
from dra_driver.probe import host, roots
from scheduler.model import machines, node
from tests.hardware import library, machine, sysfs


def without(found: node.NodeTopology, *lost: int) -> node.NodeTopology:
    """Return a node as discovery tells it when some GPUs are lost: the others move up, their names stay."""
    left = [gpu for gpu in found.gpus if gpu.index not in lost]
    index = {gpu.index: i for i, gpu in enumerate(left)}
    links = [link for link in found.nvlinks if link.a in index and link.b in index]
    return replace(
        found,
        gpus=tuple(replace(gpu, index=index[gpu.index], device_name=gpu.name) for gpu in left),
        nvlinks=tuple(replace(link, a=index[link.a], b=index[link.b]) for link in links),
    )


def named(found: node.NodeTopology) -> node.NodeTopology:
    return replace(found, gpus=tuple(replace(gpu, device_name=gpu.name) for gpu in found.gpus))


@pytest.mark.parametrize("kind", ["dgx-1v", "hgx-h100"])
@pytest.mark.parametrize("lost", [(0,), (3, 7), (0, 1, 2)])
def test_what_is_lost_keeps_its_place_and_links(kind: str, lost: tuple[int, ...]) -> None:
    whole = named(machines.build(kind, "node-a"))
    found = inventory.kept(whole, without(whole, *lost))
    assert found == whole
    assert inventory.kept(found, without(whole, *lost)) == whole
    assert inventory.kept(found, whole) is whole


def test_what_else_changed_is_taken_over() -> None:
    whole = named(machines.build("dgx-a100", "node-a"))
    cut = replace(whole, gpus=tuple(replace(gpu, mig_enabled=gpu.index == 2) for gpu in whole.gpus))
    found = inventory.kept(whole, without(cut, 5))
    assert [gpu.mig_enabled for gpu in found.gpus] == [False, False, True, *[False] * 5]


async def test_a_lost_gpu_is_published_and_not_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = machines.build("dgx-1v", "node-a")
    monkeypatch.setenv("MUSTER_NVML_STATE", str(machine.render(want, tmp_path)))
    sysfs.render(want, tmp_path / "root")
    probe = host.probe(roots.Root(tmp_path / "root"), "node-a", library.folder() / library.NAME)
    try:
        held = await inventory.Inventory.take(probe)
        told: list[node.NodeTopology] = []
        held.tell(told.append)
        machine.change(tmp_path / "nvml.state", 3, lost=1)
        await held.refresh()
        assert [gpu.name for gpu in held.published.gpus] == [f"gpu-{i}" for i in range(8)]
        assert len(held.current().gpus) == 7 and told == [held.published]
        assert held.published.link_counts() == want.link_counts()
        machine.change(tmp_path / "nvml.state", 3, lost=0)
        await held.refresh()
        assert len(held.current().gpus) == 8 and told[-1] == held.current()
    finally:
        probe.close()
