"""Pods: their defaults, what an update may change, binding."""

from __future__ import annotations

import copy
from typing import Any

from tests.testbed.embedded import failure
from tests.testbed.embedded.failure import Cause, barred, required, wrong

GATED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "SchedulingGated",
    "message": "Scheduling is blocked due to non-empty scheduling gates",
}
DEFAULTS = {
    "restartPolicy": "Always",
    "dnsPolicy": "ClusterFirst",
    "terminationGracePeriodSeconds": 30,
    "schedulerName": "default-scheduler",
    "serviceAccountName": "default",
    "serviceAccount": "default",
    "securityContext": {},
    "enableServiceLinks": True,
    "priority": 0,
    "preemptionPolicy": "PreemptLowerPriority",
}
TOLERATED = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    for key in ("not-ready", "unreachable")
]
CHANGEABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def prepare(pod: dict[str, Any]) -> None:
    """Fill in the defaults of a new pod. The volume of the service account's token is not added."""
    spec = pod["spec"]
    for name, value in DEFAULTS.items():
        spec.setdefault(name, copy.deepcopy(value))
    held = spec.setdefault("tolerations", [])
    held += [dict(one) for one in TOLERATED if all(old.get("key") != one["key"] for old in held)]
    for container in spec.get("containers", []) + spec.get("initContainers", []):
        tag = container.get("image", "").rpartition("/")[2].partition(":")[2]
        container.setdefault("imagePullPolicy", "Always" if tag in ("", "latest") else "IfNotPresent")
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
    pod["status"] = {"phase": "Pending", "qosClass": _quality(spec)}
    if spec.get("schedulingGates"):
        pod["status"]["conditions"] = [dict(GATED)]


def _quality(spec: dict[str, Any]) -> str:
    asked = [one["resources"] for one in spec.get("containers", [])]
    wants = [(r.get("requests") or {}) | (r.get("limits") or {}) for r in asked]
    if not any("cpu" in one or "memory" in one for one in wants):
        return "BestEffort"
    full = all({"cpu", "memory"} <= set(r.get("limits") or {}) for r in asked)
    same = all((r.get("requests") or r.get("limits")) == r.get("limits") for r in asked)
    return "Guaranteed" if full and same else "Burstable"


def check_new(pod: dict[str, Any]) -> list[Cause]:
    spec = pod.get("spec") or {}
    wrongs: list[Cause] = []
    if not spec.get("containers"):
        wrongs.append(required("spec.containers"))
    for index, one in enumerate(spec.get("containers") or []):
        if not one.get("name"):
            wrongs.append(required(f"spec.containers[{index}].name"))
        if not one.get("image"):
            wrongs.append(required(f"spec.containers[{index}].image"))
    if spec.get("nodeName") and spec.get("schedulingGates"):
        wrongs.append(barred("spec.nodeName", "cannot be set until all schedulingGates have been cleared"))
    for index, ref in enumerate(spec.get("resourceClaims") or []):
        named = [name for name in ("resourceClaimName", "resourceClaimTemplateName") if ref.get(name)]
        if len(named) != 1:
            text = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            wrongs.append(wrong(f"spec.resourceClaims[{index}]", text))
    return wrongs


def check_update(before: dict[str, Any], after: dict[str, Any]) -> list[Cause]:
    """Gates may only go; while there are gates the choice of nodes may be narrowed; images and tolerations may change."""
    old, new = before["spec"], copy.deepcopy(after["spec"])
    wrongs: list[Cause] = []
    gates = [one["name"] for one in old.get("schedulingGates") or []]
    for one in new.get("schedulingGates") or []:
        if one["name"] not in gates:
            said = f"only deletion is allowed, but found new scheduling gate '{one['name']}'"
            wrongs.append(barred("spec.schedulingGates", said))
    if gates:
        wrongs += _check_narrower(old, new)
        for name in ("nodeSelector", "affinity"):
            _same(old, new, name)
    _same(old, new, "schedulingGates")
    _same(old, new, "activeDeadlineSeconds")
    wrongs += _check_tolerations(old, new)
    for name in ("containers", "initContainers"):
        if len(old.get(name) or []) == len(new.get(name) or []):
            for was, now in zip(old.get(name) or [], new.get(name) or [], strict=True):
                _same(was, now, "image")
    if new != old:
        wrongs.append(barred("spec", CHANGEABLE))
    return wrongs


def _same(old: dict[str, Any], new: dict[str, Any], name: str) -> None:
    new.pop(name, None)
    if name in old:
        new[name] = old[name]


def _check_tolerations(old: dict[str, Any], new: dict[str, Any]) -> list[Cause]:
    def core(one: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in one.items() if name != "tolerationSeconds"}

    now = [core(one) for one in new.get("tolerations") or []]
    lost = [one for one in old.get("tolerations") or [] if core(one) not in now]
    _same(old, new, "tolerations")
    return [barred("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")] * bool(
        lost
    )


def _check_narrower(old: dict[str, Any], new: dict[str, Any]) -> list[Cause]:
    wrongs: list[Cause] = []
    was, now = old.get("nodeSelector") or {}, new.get("nodeSelector") or {}
    if any(now.get(key) != value for key, value in was.items()):
        wrongs.append(
            wrong("spec.nodeSelector", "only additions to spec.nodeSelector are allowed (no mutations or deletions)")
        )
    was_terms, now_terms = _terms(old), _terms(new)
    if was_terms and not _narrows(was_terms, now_terms):
        field = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
        wrongs.append(wrong(field, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"))
    return wrongs


def _terms(spec: dict[str, Any]) -> list[dict[str, Any]]:
    node = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    return (node or {}).get("nodeSelectorTerms") or []


def _narrows(was: list[dict[str, Any]], now: list[dict[str, Any]]) -> bool:
    """Each term must keep its expressions at the front, in order; only the last ones may be new."""
    if len(was) != len(now):
        return False
    pairs = [
        (old.get(n) or [], new.get(n) or [])
        for old, new in zip(was, now, strict=True)
        for n in ("matchExpressions", "matchFields")
    ]
    return all(new[: len(old)] == old for old, new in pairs)


def bound(kind: Any, pod: dict[str, Any], binding: dict[str, Any], now: str) -> dict[str, Any]:
    """Return the pod with its node, as the `binding` subresource sets it."""
    name, node = pod["metadata"]["name"], (binding.get("target") or {}).get("name")
    if not node:
        raise failure.invalid(kind, name, [required("target.name")])
    if pod["metadata"].get("deletionTimestamp"):
        raise failure.conflict(kind, name, f"pod {name} is being deleted, cannot be assigned to a host")
    if pod["spec"].get("nodeName"):
        raise failure.conflict(kind, name, f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"')
    if pod["spec"].get("schedulingGates"):
        raise failure.conflict(kind, name, f"pod {name} has non-empty .spec.schedulingGates")
    after = copy.deepcopy(pod)
    after["spec"]["nodeName"] = node
    conditions = [one for one in after["status"].get("conditions") or [] if one["type"] != "PodScheduled"]
    conditions.append({"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now})
    after["status"]["conditions"] = conditions
    return after
