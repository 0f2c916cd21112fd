"""What is discovered is what a reader of our slices gets back: for every machine, MIG mode, lost GPU and server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dra_driver.probe import nvml, roots
from scheduler.model import machines, node, slices
from tests.hardware import library, machine, sysfs
from tests.model import api_limits

FORMS = [(minor, slices.layout(minor, partitionable=p)) for minor in (34, 35, 37) for p in (False, True)]
FORMS.append((37, slices.layout(37, lists=True)))
RACK = "a1b2c3d4-0000-4000-8000-00000000000f"


def built(kind: str) -> node.NodeTopology:
    return machines.nvl72("rack", RACK, 7)[0] if kind == "gb200-nvl72" else machines.build(kind, "node-a")


@pytest.fixture(scope="module", params=machines.KINDS)
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A kind of machine and its /sys and /proc, which MIG mode and losses do not change."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    sysfs.render(built(request.param), folder / "root")
    return request.param, folder


@settings(
    max_examples=settings().max_examples // 12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_reader_of_the_slices_sees_what_was_discovered(
    rendered: tuple[str, Path], data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, folder = rendered
    whole = built(kind)
    indices = range(len(whole.gpus))
    cut = data.draw(st.sets(st.sampled_from(indices)), "GPUs in MIG mode")
    lost = data.draw(st.sets(st.sampled_from(indices), max_size=2), "lost GPUs")
    minor, form = data.draw(st.sampled_from(FORMS), "server")
    gpus = tuple(replace(gpu, mig_enabled=gpu.index in cut and bool(gpu.model.mig)) for gpu in whole.gpus)
    found = discovered(replace(whole, gpus=gpus), folder, lost, monkeypatch)
    assert [gpu.name for gpu in found.gpus] == [gpu.name for gpu in whole.gpus if gpu.index not in lost]
    assert [gpu.uuid for gpu in found.gpus] == [gpu.uuid for gpu in whole.gpus if gpu.index not in lost]
    published = slices.encode(found, 1, form)
    api_limits.check_pool(published, minor)
    assert slices.decode(published) == replace(found, cpu_milli=0, memory_mib=0, labels=(), max_pods=1001)


def discovered(
    wanted: node.NodeTopology, folder: Path, lost: set[int], monkeypatch: pytest.MonkeyPatch
) -> node.NodeTopology:
    path = machine.render(wanted, folder)
    for gpu in lost:
        machine.change(path, gpu, lost=1)
    monkeypatch.setenv("MUSTER_NVML_STATE", str(path))
    probe = nvml.NvmlProbe(roots.Root(folder / "root"), wanted.name, library.folder() / library.NAME)
    try:
        return probe.discover().topology
    finally:
        probe.close()
