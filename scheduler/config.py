"""Settings of ``muster-scheduler``; each is an option, a variable ``MUSTER_<NAME>``, and a key of the settings file."""

from typing import Annotated, Literal

import pydantic

Port = Annotated[int, pydantic.Field(ge=0, le=65535)]

Way = Literal["never", "offer", "execute"]
"""How far Muster goes to make room for a gang."""


class Config(pydantic.BaseModel):
    """How the scheduler runs."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    kubeconfig: str = pydantic.Field("", description="Kubeconfig file; the pod's service account where empty.")
    namespace: str = pydantic.Field("muster-system", description="Where the Lease is, and Muster itself.")
    identity: str = pydantic.Field("", description="Name of this replica; the host's name where empty.")
    lease: str = pydantic.Field("muster-scheduler", description="Name of the Lease that the leader holds.")
    leader_elect: bool = pydantic.Field(True, description="Only the holder of the Lease plans and writes.")
    host: str = pydantic.Field("0.0.0.0", description="Address of the server for extender, webhook and metrics.")
    port: Port = pydantic.Field(9443, description="Its port.")
    webhook_port: Port = pydantic.Field(
        9444,
        description="With a certificate, the port of webhook, probes and metrics, where no client certificate is asked.",
    )
    tls_certificate: str = pydantic.Field("", description="PEM file; without it one port serves all in plain HTTP.")
    tls_key: str = pydantic.Field("", description="PEM file of the key.")
    client_ca: str = pydantic.Field(
        "", description="PEM file; who asks the extender has to show a certificate signed by it."
    )
    extender_weight: Annotated[int, pydantic.Field(ge=1, le=1_000_000)] = pydantic.Field(
        13, description="Weight of the extender in kube-scheduler's configuration."
    )
    policy: str = pydantic.Field("muster", description="Built-in scoring policy, or a ScoringPolicy file.")
    queue: Literal["fifo", "skip", "easy"] = pydantic.Field("skip", description="Who may overtake in the queue.")
    preempt: Way = pydantic.Field(
        "offer", description="Whether gangs of higher priority evict others, or are told which they could evict."
    )
    defragment: Way = pydantic.Field(
        "never", description="Whether gangs that run move so that another fits, or it is told which could move."
    )
    move_after_s: Annotated[float, pydantic.Field(ge=0, le=86_400)] = pydantic.Field(
        300.0, description="Seconds that a gang runs at least before it is moved."
    )
    reservation_s: Annotated[float, pydantic.Field(gt=0, le=86_400)] = pydantic.Field(
        120.0, description="Seconds that devices are kept for pods that do not exist yet."
    )
    bind_s: Annotated[float, pydantic.Field(gt=0, le=86_400)] = pydantic.Field(
        300.0, description="Seconds in which kube-scheduler has to bind pods that were let go; then they are made anew."
    )
    level_labels: str = pydantic.Field(
        "", description="Node labels of the topology, coarsest first, joined by commas; empty finds the usual ones."
    )
    fabric: str = pydantic.Field("", description="File that says in which domains each node is.")
    owned: bool = pydantic.Field(
        True, description="All devices of ours carry the ownership taint; a warning tells of those without it."
    )
    audit_folder: str = pydantic.Field("", description="Folder of the decision log; no log where empty.")
    otlp_endpoint: str = pydantic.Field(
        "",
        description="URL of an OTLP/HTTP collector for traces; the OTEL_ variables hold too, none where both are empty.",
    )
    sync_s: Annotated[float, pydantic.Field(gt=0, le=3600)] = pydantic.Field(
        120.0, description="Seconds within which everything has to be listed at the start."
    )
    log_level: Literal["debug", "info", "warning", "error"] = pydantic.Field("info", description="Least level logged.")

    @property
    def offers(self) -> tuple[Literal["preempt", "defragment"], ...]:
        """Return the ways of making room that are told and not carried out."""
        ways: tuple[Literal["preempt", "defragment"], ...] = ("preempt", "defragment")
        return tuple(way for way in ways if getattr(self, way) == "offer")

    @pydantic.model_validator(mode="after")
    def _pairs(self) -> "Config":
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key are given together or not at all")
        if self.client_ca and not self.tls_certificate:
            raise ValueError("client_ca needs tls_certificate")
        if self.tls_certificate and self.port and self.port == self.webhook_port:
            raise ValueError(f"port and webhook_port are both {self.port}; they ask clients for different things")
        return self
