"""How placements are scored, as one frozen value: a versioned ``ScoringPolicy`` document, strictly validated."""

from typing import Annotated, Literal

import pydantic

API_VERSION = "muster.dev/v1alpha1"

PodRule = Literal[
    "opportunity-cost",
    "fgd",
    "best-fit",
    "dot-product",
    "clustering",
    "packing",
    "random",
    "least-allocated",
    "most-allocated",
    "first-fit",
]
"""Which node a lone pod gets. Sources: FGD (ATC'23) and its baselines; kube-scheduler's NodeResourcesFit; DRA first fit."""

DomainRule = Literal["opportunity-cost", "tas-best-fit", "tas-least-free", "first-fit"]
"""Which domain a gang gets. Sources: Kueue topology-aware scheduling's two orders; DRA first fit."""

DeviceRule = Literal["best-subset", "first-fit"]
"""Which GPUs of the node: by predicted ring bandwidth and what is left over, or the lowest free indices."""

Weight = Annotated[int, pydantic.Field(strict=True, ge=0, le=1_000_000)]


POD_WEIGHTS: dict[PodRule, dict[str, int]] = {
    "opportunity-cost": {
        "fragmentation": 300,
        "stranded": 4000,
        "left": 100,
        "open": 75,
        "value": 5000,
        "gpu_left": 150,
        "pressure": 500,
        "left_cpu": 60,
        "bandwidth": 400,
        "scarcity": 500,
    }
}
"""Weights that a rule reads, per mille, and their defaults; ``docs/adr/0003`` tells how these were found."""


GANG_WEIGHTS: dict[DomainRule, dict[str, int]] = {
    "opportunity-cost": {"bandwidth": 400, "nodes": 100, "domains": 50, "span": 50}
}
"""Weights of the terms of ``gang_price``, per mille. Communication is 30-50 % of a training step (Arnold, arXiv
2509.15940), so a gang at half its bandwidth wastes about a fifth of its GPUs; the rest is judgement."""


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def _check_weights(rule: str, known: dict[str, int], given: dict[str, int]) -> None:
    """Refuse weights that a rule does not read."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        reads = f"it reads {', '.join(sorted(known))}" if known else "it reads none"
        raise ValueError(f"rule {rule} has no weight {', '.join(unknown)}; {reads}")


class PodScoring(_Frozen):
    """Rule and per-mille weights for lone pods; weights that a rule does not name are refused."""

    rule: PodRule = "opportunity-cost"
    weights: dict[str, Weight] = {}

    @pydantic.model_validator(mode="after")
    def _known_weights(self) -> "PodScoring":
        _check_weights(self.rule, POD_WEIGHTS.get(self.rule, {}), self.weights)
        return self


class GangScoring(_Frozen):
    """Rules and per-mille weights for gangs."""

    domains: DomainRule = "opportunity-cost"
    devices: DeviceRule = "best-subset"
    weights: dict[str, Weight] = {}

    @pydantic.model_validator(mode="after")
    def _known_weights(self) -> "GangScoring":
        _check_weights(self.domains, GANG_WEIGHTS.get(self.domains, {}), self.weights)
        return self


class Metadata(_Frozen):
    """Name of the policy, as reports and decisions show it."""

    name: Annotated[str, pydantic.Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]


class Spec(_Frozen):
    """Scoring of lone pods and of gangs."""

    pods: PodScoring = PodScoring()
    gangs: GangScoring = GangScoring()


class ScoringPolicy(_Frozen):
    """One policy document."""

    api_version: Annotated[Literal["muster.dev/v1alpha1"], pydantic.Field(alias="apiVersion")] = "muster.dev/v1alpha1"
    kind: Literal["ScoringPolicy"] = "ScoringPolicy"
    metadata: Metadata
    spec: Spec = Spec()


def pod_weights(chosen: ScoringPolicy) -> dict[str, int]:
    """Return all weights of the pod rule: those of the document, defaults for the rest."""
    pods = chosen.spec.pods
    return POD_WEIGHTS.get(pods.rule, {}) | pods.weights


def gang_weights(gangs: GangScoring) -> dict[str, int]:
    """Return all weights of the domain rule: those of the document, defaults for the rest."""
    return GANG_WEIGHTS.get(gangs.domains, {}) | gangs.weights
