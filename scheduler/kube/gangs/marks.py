"""The labels, annotations and kinds by which other projects mark their pods; each block names its project."""

# Kinds of owner objects, as `objects` is asked for them.
JOBSET = "JobSet"
JOB = "Job"
LWS = "LeaderWorkerSet"
POD_GROUP = "PodGroup"
SIGS_POD_GROUP = "SigsPodGroup"
WORKLOAD = "Workload"
"""Of Kueue."""
NAMESPACE = "Namespace"

# JobSet; labels of its Jobs and their pods.
JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"
JOBSET_UID = "jobset.sigs.k8s.io/jobset-uid"
JOBSET_ROLE = "jobset.sigs.k8s.io/replicatedjob-name"
JOBSET_JOB = "jobset.sigs.k8s.io/job-index"
JOBSET_ATTEMPT = "jobset.sigs.k8s.io/restart-attempt"
JOBSET_JOB_ATTEMPT = "jobset.sigs.k8s.io/job-restart-attempt"
JOBSET_EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
JOBSET_NODE_SELECTOR = "alpha.jobset.sigs.k8s.io/node-selector"

# batch/v1.
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"

# apps/v1 StatefulSet.
ORDINAL = "apps.kubernetes.io/pod-index"

# LeaderWorkerSet; labels of pods, and annotations where told.
LWS_NAME = "leaderworkerset.sigs.k8s.io/name"
LWS_GROUP = "leaderworkerset.sigs.k8s.io/group-index"
LWS_WORKER = "leaderworkerset.sigs.k8s.io/worker-index"
LWS_REVISION = "leaderworkerset.sigs.k8s.io/template-revision-hash"
LWS_SIZE = "leaderworkerset.sigs.k8s.io/size"
"""Annotation of pods."""
LWS_EXCLUSIVE = "leaderworkerset.sigs.k8s.io/exclusive-topology"
"""Annotation of the set; its webhook copies it to pods."""
LWS_SUBGROUP_EXCLUSIVE = "leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology"

# scheduling.x-k8s.io (coscheduling of scheduler-plugins); label of pods.
SIGS_GROUP = "scheduling.x-k8s.io/pod-group"

# Kueue.
KUEUE_GROUP = "kueue.x-k8s.io/pod-group-name"
KUEUE_TOTAL = "kueue.x-k8s.io/pod-group-total-count"
KUEUE_INDEX = "kueue.x-k8s.io/pod-group-pod-index"
KUEUE_INDEX_LABEL = "kueue.x-k8s.io/pod-group-pod-index-label"
KUEUE_COMPONENT = "kueue.x-k8s.io/component-workload-index"
"""Annotation of Workloads: the replica of a LeaderWorkerSet."""
KUEUE_WORKLOAD = "kueue.x-k8s.io/workload"
KUEUE_TOPOLOGY_GATE = "kueue.x-k8s.io/topology"
KUEUE_POD_SET = "kueue.x-k8s.io/podset"
KUEUE_REQUIRED = "kueue.x-k8s.io/podset-required-topology"
KUEUE_PREFERRED = "kueue.x-k8s.io/podset-preferred-topology"
KUEUE_UNCONSTRAINED = "kueue.x-k8s.io/podset-unconstrained-topology"
KUEUE_SLICE_LEVEL = "kueue.x-k8s.io/podset-slice-required-topology"
KUEUE_SLICE_SIZE = "kueue.x-k8s.io/podset-slice-size"
KUEUE_SLICE_LAYERS = "kueue.x-k8s.io/podset-slice-required-topology-constraints"
KUEUE_SET_GROUP = "kueue.x-k8s.io/podset-group-name"
