"""GPUs that a node has as an extended resource: a count and a product, and nothing about their wiring."""

from collections.abc import Mapping

from scheduler.model import device, node

GPU_RESOURCE = "nvidia.com/gpu"
PRODUCT_LABEL = "nvidia.com/gpu.product"
"""From GPU feature discovery; for nodes whose GPUs are an extended resource and not in ResourceSlices."""

Labels = Mapping[str, str]


def machine(name: str, labels: Labels, count: int, prefix: str = "") -> node.NodeTopology:
    """Return a node with `count` GPUs of the product that its labels name, without CPU and memory.

    Parameters
    ----------
    prefix : str
        Put before the product, where such GPUs must not be taken for GPUs of the same product in ResourceSlices.

    Raises
    ------
    ValueError
        More GPUs than a node may have.
    """
    model = device.GpuModel(prefix + str(labels.get(PRODUCT_LABEL, "unknown")), "Unknown", 0)
    gpus = tuple(device.Gpu(index, model, f"{name}/{index}") for index in range(count))
    return node.NodeTopology(name, f"extended-{count}x{model.name}" if count else "cpu", gpus=gpus)
