"""Everything that rules read besides the snapshot: target tables, prices, weights, seed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.placement import partition_prices, prices, target
from scheduler.placement.score import fragmentation, rings
from scheduler.snapshot import topology

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Integer tables of one policy, target workload and fleet.

    Attributes
    ----------
    popular : Fragmentation
        Over the most popular 95 % of the target, as FGD publishes it.
    whole : Fragmentation
        Over the whole target.
    partitions : ndarray of int64, shape (S, G, 512)
        Worth of every GPU in MIG mode by its used slices, micro-GPU.
    rings : Rings
        Bandwidth of the best GPUs of every free mask.
    thresholds : ndarray of int64, shape (99,)
        Least fall of fragmentation (times ``popular.total``) that scores 1, 2, ... 99 in FGD.
    """

    popular: fragmentation.Fragmentation
    whole: fragmentation.Fragmentation
    thresholds: Ints
    prices: prices.Prices
    partitions: Ints
    rings: rings.Rings
    weights: Mapping[str, int]
    seed: int

    def sigmoid(self, fall: Ints) -> Ints:
        """Return FGD's integer score of a fall of fragmentation: ``trunc(100 / (1 + exp(-fall / 1000)))``."""
        return np.asarray(np.searchsorted(self.thresholds, fall, side="right"), dtype=np.int64)


def compile_tables(
    fleet: topology.Topology, wanted: target.TargetWorkload, weights: Mapping[str, int], seed: int
) -> Tables:
    """Compile the tables of one policy."""
    popular = fragmentation.compile_fragmentation(fleet, wanted.popular())
    return Tables(
        popular=popular,
        whole=fragmentation.compile_fragmentation(fleet, wanted),
        thresholds=sigmoid_thresholds(popular.total),
        prices=prices.compile_prices(fleet, wanted) if any(weights.values()) else prices.unpriced(fleet),
        partitions=partition_prices.of_fleet(fleet, wanted if any(weights.values()) else target.TargetWorkload(())),
        rings=rings.compile_rings(fleet),
        weights=weights,
        seed=seed,
    )


def sigmoid_thresholds(total: int) -> Ints:
    """Invert the sigmoid at the integers 1..99, so that scores come from integers without rounding."""
    scores = np.arange(1, 100)
    return np.asarray(np.ceil(-1000.0 * total * np.log(100.0 / scores - 1.0)), dtype=np.int64)


def mix(seed: int, version: int, nodes: Ints) -> NDArray[np.uint64]:
    """Hash integers (splitmix64's finaliser), equal on every platform."""
    with np.errstate(over="ignore"):
        x = nodes.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + version * 0xBF58476D1CE4E5B9) % (1 << 64))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))
