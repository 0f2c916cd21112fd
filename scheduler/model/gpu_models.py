"""GPU products with their MIG tables, for fixtures, simulated fleets and tests.

Real nodes discover these figures, because they vary with driver and board; nothing here overrules a discovered value.

References
----------
NVIDIA Multi-Instance GPU User Guide, "Supported MIG Profiles" and its ``nvidia-smi mig -lgip`` and ``-lgipp`` listings:
profile ids, placements, instance counts. Memory is what those listings print where it was found (A30, A100-40,
H100-80, H200); for the other products it is the profile's share of the memory that NVML reports, in eighths.
"""

from collections.abc import Sequence

from scheduler.model import device

_SHAPES = (
    # suffix of the name, profile id, compute slices, memory slices, starts, instances per GPU
    ("", 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7),
    ("+me", 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1),
    ("", 15, 1, 2, (0, 2, 4, 6), 4),
    ("", 14, 2, 2, (0, 2, 4), 3),
    ("", 9, 3, 4, (0, 4), 2),
    ("", 5, 4, 4, (0,), 1),
    ("", 0, 7, 8, (0,), 1),
)
"""The seven shapes of every part with seven compute and eight memory slices."""


_A100_ENGINES = (
    device.Engines(14, 1),
    device.Engines(14, 1, 1, jpeg=1, ofa=1),
    device.Engines(14, 1, 1),
    device.Engines(28, 2, 1),
    device.Engines(42, 3, 2),
    device.Engines(56, 4, 2),
    device.Engines(98, 7, 5, jpeg=1, ofa=1),
)
_H100_ENGINES = (
    device.Engines(16, 1, 1, jpeg=1),
    device.Engines(16, 1, 1, jpeg=1, ofa=1),
    device.Engines(26, 1, 1, jpeg=1),
    device.Engines(32, 2, 2, jpeg=2),
    device.Engines(60, 3, 3, jpeg=3),
    device.Engines(64, 4, 4, jpeg=4),
    device.Engines(132, 8, 7, jpeg=7, ofa=1),
)
"""In the order of `_SHAPES`, as ``nvidia-smi mig -lgip`` lists them."""

_UNKNOWN = (device.Engines(),) * 7


def seven(
    names: str, memory_mib: Sequence[int], engines: Sequence[device.Engines] = _UNKNOWN
) -> tuple[device.MigProfile, ...]:
    """Return the MIG table of a part with seven compute slices.

    Parameters
    ----------
    names : str
        Names of the profiles 1g, 1g of double memory, 2g, 3g, 4g and 7g, separated by blanks.
    memory_mib : sequence of int
        Memory of a partition with 1, 2, 4 and 8 memory slices.
    engines : sequence of Engines
        Of the seven shapes.
    """
    small, double, two, three, four, full = names.split()
    memory = dict(zip((1, 2, 4, 8), memory_mib, strict=True))
    table = zip((small, small, double, two, three, four, full), _SHAPES, engines, strict=True)
    return tuple(
        device.MigProfile(name + suffix, number, compute, width, starts, count, memory[width], own)
        for name, (suffix, number, compute, width, starts, count), own in table
    )


def _eighths(memory_mib: int) -> tuple[int, int, int, int]:
    return memory_mib // 8, memory_mib // 4, memory_mib // 2, memory_mib


def _of_four(names: str, memory_mib: tuple[int, int, int]) -> tuple[device.MigProfile, ...]:
    """Return the MIG table of a part with four compute and four memory slices."""
    one, two, four = names.split()
    return (
        device.MigProfile(one, 14, 1, 1, (0, 1, 2, 3), 4, memory_mib[0]),
        device.MigProfile(one + "+me", 21, 1, 1, (0, 1, 2, 3), 1, memory_mib[0]),
        device.MigProfile(two, 5, 2, 2, (0, 2), 2, memory_mib[1]),
        device.MigProfile(two + "+me", 6, 2, 2, (0, 2), 1, memory_mib[1]),
        device.MigProfile(four, 0, 4, 4, (0,), 1, memory_mib[2]),
    )


_A100_80 = seven("1g.10gb 1g.20gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb", _eighths(81_920), _A100_ENGINES)
_H100_80 = seven("1g.10gb 1g.20gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb", (9_984, 20_096, 40_448, 81_152), _H100_ENGINES)

V100_SXM2_32 = device.GpuModel("V100-SXM2-32GB", "Volta", 32_768, brand="Tesla", compute_capability="7.0.0")
V100_SXM3_32 = device.GpuModel("V100-SXM3-32GB", "Volta", 32_768, brand="Tesla", compute_capability="7.0.0")
T4 = device.GpuModel("T4", "Turing", 15_360, brand="Tesla", compute_capability="7.5.0")
A30 = device.GpuModel(
    "A30",
    "Ampere",
    24_576,
    4,
    _of_four("1g.6gb 2g.12gb 4g.24gb", (5_952, 11_968, 24_000)),
    brand="Nvidia",
    compute_capability="8.0.0",
)
A100_SXM4_40 = device.GpuModel(
    "A100-SXM4-40GB",
    "Ampere",
    40_960,
    7,
    seven("1g.5gb 1g.10gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb", (4_864, 9_856, 19_968, 40_192), _A100_ENGINES),
    brand="Nvidia",
    compute_capability="8.0.0",
)
A100_SXM4_80 = device.GpuModel(
    "A100-SXM4-80GB", "Ampere", 81_920, 7, _A100_80, brand="Nvidia", compute_capability="8.0.0"
)
A100_PCIE_80 = device.GpuModel(
    "A100-PCIE-80GB", "Ampere", 81_920, 7, _A100_80, brand="Nvidia", compute_capability="8.0.0"
)
L40S = device.GpuModel("L40S", "Ada Lovelace", 46_068, brand="Nvidia", compute_capability="8.9.0")
H100_SXM5_80 = device.GpuModel(
    "H100-SXM5-80GB", "Hopper", 81_559, 7, _H100_80, brand="Nvidia", compute_capability="9.0.0"
)
H100_PCIE_80 = device.GpuModel(
    "H100-PCIE-80GB", "Hopper", 81_559, 7, _H100_80, brand="Nvidia", compute_capability="9.0.0"
)
H200_SXM_141 = device.GpuModel(
    "H200-SXM-141GB",
    "Hopper",
    143_771,
    7,
    seven("1g.18gb 1g.35gb 2g.35gb 3g.71gb 4g.71gb 7g.141gb", (16_384, 33_024, 71_168, 143_360), _H100_ENGINES),
    brand="Nvidia",
    compute_capability="9.0.0",
)
B200_SXM_180 = device.GpuModel(
    "B200-SXM-180GB",
    "Blackwell",
    183_359,
    7,
    seven("1g.23gb 1g.45gb 2g.45gb 3g.90gb 4g.90gb 7g.180gb", _eighths(183_359)),
    brand="Nvidia",
    compute_capability="10.0.0",
)
GB200_186 = device.GpuModel(
    "GB200-186GB",
    "Blackwell",
    189_471,
    7,
    seven("1g.24gb 1g.47gb 2g.47gb 3g.95gb 4g.95gb 7g.189gb", _eighths(189_471)),
    brand="Nvidia",
    compute_capability="10.0.0",
)

MODELS: dict[str, device.GpuModel] = {
    model.name: model
    for model in (
        V100_SXM2_32,
        V100_SXM3_32,
        T4,
        A30,
        A100_SXM4_40,
        A100_SXM4_80,
        A100_PCIE_80,
        L40S,
        H100_SXM5_80,
        H100_PCIE_80,
        H200_SXM_141,
        B200_SXM_180,
        GB200_186,
    )
}
"""Every product by name."""


PRODUCTS: dict[str, device.GpuModel] = {
    "Tesla V100-SXM2-32GB": V100_SXM2_32,
    "Tesla V100-SXM3-32GB": V100_SXM3_32,
    "Tesla T4": T4,
    "NVIDIA A30": A30,
    "NVIDIA A100-SXM4-40GB": A100_SXM4_40,
    "NVIDIA A100-SXM4-80GB": A100_SXM4_80,
    "NVIDIA A100 80GB PCIe": A100_PCIE_80,
    "NVIDIA L40S": L40S,
    "NVIDIA H100 80GB HBM3": H100_SXM5_80,
    "NVIDIA H100 PCIe": H100_PCIE_80,
    "NVIDIA H200": H200_SXM_141,
    "NVIDIA B200": B200_SXM_180,
    "NVIDIA GB200": GB200_186,
}
"""Products by the name that NVML reports (``nvmlDeviceGetName``)."""


def of_product(name: str) -> device.GpuModel:
    """Return the product of an NVML name, or one of that name about which nothing more is known."""
    return PRODUCTS.get(name) or PRODUCTS.get(f"NVIDIA {name}") or named(name)


def named(name: str) -> device.GpuModel:
    """Return the product called `name`, or one of that name about which nothing more is known."""
    return MODELS.get(name) or device.GpuModel(name, "Unknown", 0)
