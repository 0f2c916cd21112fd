"""The names by which Muster, users and other controllers find each other in the API."""

PREFIX = "muster.dev/"

GATE = "muster.dev/placement"
"""Scheduling gate of pods that wait for their gang's plan."""

MANAGED = "muster.dev/managed"
"""Namespace label; "true" lets the webhook gate the pods with claims on our devices."""

# What users write on pods, pod templates or the workload object; see docs/workloads.md.
GANG_NAME = "muster.dev/gang-name"
GANG_SIZE = "muster.dev/gang-size"
MIN_MEMBER = "muster.dev/min-member"
ROLE = "muster.dev/role"
RANK = "muster.dev/rank"
REQUIRED_LEVEL = "muster.dev/required-level"
PREFERRED_LEVEL = "muster.dev/preferred-level"
SEGMENT_SIZE = "muster.dev/segment-size"
SEGMENT_LEVEL = "muster.dev/segment-level"
SPREAD_LEVEL = "muster.dev/spread-level"
SPREAD_MAX = "muster.dev/spread-max-pods"
EXPECTED_S = "muster.dev/expected-seconds"
PREEMPTIBLE = "muster.dev/preemptible"

TENANT = "muster.dev/tenant"
"""Label of namespaces, workloads and pods; a pod without one is of its namespace's tenant, else of the namespace's name."""

# What Muster writes.
GANG = "muster.dev/gang"
"""Label of pods: name of the GangPlacement in the pod's namespace."""

DECISION = "muster.dev/decision-id"
TRACEPARENT = "muster.dev/traceparent"
"""Annotation of pods and GangPlacements: W3C trace context of the gang; one that the submitter wrote is kept."""

DOMAIN = "muster.dev/domain"
"""Annotation of pods that Kueue has admitted: level and name of the domain that was kept for their gang."""

PLANNED_RANK = "muster.dev/planned-rank"
PLANNED_DEVICES = "muster.dev/planned-devices"
PLANNED_SIZE = "muster.dev/planned-size"
"""Annotations of placed pods: rank in the gang; device names in the order in which the container sees them."""

OWNED = "muster.dev/owned"
"""Key of the NoSchedule device taint that keeps every other allocator off our devices."""

DISRUPTED = "DisruptionTarget"
EVICTED_BY = "Muster: "
"""Condition of pods that are about to be deleted, and how its message begins where it is Muster that evicts."""

CLAIM_FINALIZER = "resource.kubernetes.io/delete-protection"
"""Must be on a claim before its allocation; kube-controller-manager takes it off after the last use."""

MANAGER = "muster-scheduler"
"""Field manager, Event reporter and user agent."""

GROUP = "muster.dev"
VERSION = "v1alpha1"
API_VERSION = "muster.dev/v1alpha1"
KIND = "GangPlacement"
PLURAL = "gangplacements"
