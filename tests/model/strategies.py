"""Machines and fabrics for property tests: small, odd on purpose, deterministic when shrunk."""

from itertools import combinations

from hypothesis import strategies as st

from scheduler.model import device, fabric, gpu_models, machines, node

MODELS = (
    device.GpuModel("V100-SXM2-32GB", "Volta", 32768),
    gpu_models.A100_SXM4_40,
    gpu_models.A100_SXM4_80,
    gpu_models.H100_SXM5_80,
    gpu_models.A30,
    device.GpuModel("NoName", "", 0),
)

buses = st.builds(
    "{:04x}:{:02x}:{:02x}.{:x}".format,
    st.integers(0, 0xFFFF),
    st.integers(0, 255),
    st.integers(0, 31),
    st.integers(0, 7),
)
switches = st.sampled_from(["", "a", "a/0", "a/1", "b", "b/0/0", "b/0/1"])
roots = st.sampled_from(["", "pci0000:00", "pci0000:80", "pci0008:00"])
numas = st.integers(-1, 3)
names = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z0-9]{1,5})?", fullmatch=True)


@st.composite
def gpus(draw: st.DrawFn, count: int) -> tuple[device.Gpu, ...]:
    """Some GPUs of up to two models, some cut, some divisible, some with foreign names."""
    models = draw(st.lists(st.sampled_from(MODELS), min_size=1, max_size=2))
    return tuple(
        device.Gpu(
            index,
            draw(st.sampled_from(models)),
            uuid=draw(st.sampled_from(["", f"GPU-{index}"])),
            pci_bus_id=draw(st.one_of(st.just(""), buses)),
            pcie_switch=draw(switches),
            pcie_root=draw(roots),
            numa=draw(numas),
            fabric_id=draw(st.sampled_from(["", "7d3b5e6a-0000-4000-8000-0123456789ab.3"])),
            mig_enabled=draw(st.booleans()),
            shareable=draw(st.booleans()),
            device_name=draw(st.sampled_from(["", f"card-{index}"])),
            addressing_mode=draw(st.sampled_from(["", "HMM", "ATS"])),
        )
        for index in range(count)
    )


@st.composite
def nics(draw: st.DrawFn) -> tuple[device.Nic, ...]:
    """Some NICs."""
    return tuple(
        device.Nic(
            index,
            f"mlx5_{index}",
            draw(st.sampled_from([25, 100, 400])),
            draw(st.one_of(st.just(""), buses)),
            draw(switches),
            draw(roots),
            draw(numas),
            draw(st.booleans()),
            draw(st.sampled_from(["", f"port-{index}"])),
        )
        for index in range(draw(st.integers(0, 4)))
    )


@st.composite
def nvlinks(draw: st.DrawFn, count: int) -> tuple[node.NvLink, ...]:
    """NVLinks between some of the pairs, of up to three kinds."""
    kinds = draw(
        st.lists(st.tuples(st.integers(1, 18), st.sampled_from([25.0, 26.562, 53.125])), min_size=1, max_size=3)
    )
    pairs = list(combinations(range(count), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return tuple(node.NvLink(a, b, *draw(st.sampled_from(kinds))) for a, b in chosen)


@st.composite
def topologies(draw: st.DrawFn, max_gpus: int = 8, name: st.SearchStrategy[str] = names) -> node.NodeTopology:
    """Any machine, possible or not in a shop."""
    count = draw(st.integers(0, max_gpus))
    numa = draw(st.integers(0, 4))
    distances = tuple(
        tuple(10 if a == b else draw(st.sampled_from([12, 21, 32])) for b in range(numa)) for a in range(numa)
    )
    accelerators = draw(st.lists(st.sampled_from(["fpga", "tpu"]), max_size=2))
    return node.NodeTopology(
        name=draw(name),
        machine=draw(st.sampled_from(["", "odd-box"])),
        gpus=draw(gpus(count)),
        nics=draw(nics()),
        accelerators=tuple(device.Accelerator(i, kind, "X1", numa=draw(numas)) for i, kind in enumerate(accelerators)),
        nvlinks=draw(nvlinks(count)),
        nvswitches=draw(st.sampled_from([0, 0, 2, 4, 12])),
        numa_distances=distances,
        sockets=draw(st.sampled_from([(), tuple(n // 2 for n in range(numa))])),
    )


@st.composite
def fabrics(draw: st.DrawFn, max_nodes: int = 8) -> fabric.Fabric:
    """A fabric of up to three levels with unequal branches; some nodes skip levels, some have no GPUs."""
    count = draw(st.integers(1, max_nodes))
    levels = ("block", "rack", "nvlink-domain")[: draw(st.integers(0, 3))]
    paths, nodes = {}, {}
    for i in range(count):
        name = f"node-{i}"
        kind = draw(st.sampled_from(["plain", "l40s-8", "a100-pcie-pairs", "cpu"]))
        if kind in machines.KINDS:
            nodes[name] = machines.build(kind, name)
        else:
            nodes[name] = machines.plain(name, 0 if kind == "cpu" else draw(st.integers(1, 3)), "T4", 8000, 4096)
        paths[name] = tuple(draw(st.sampled_from(["", f"{level}-0", f"{level}-1"])) for level in levels)
    return fabric.from_paths(nodes, paths, levels)
