"""Create, replace, patch, apply and delete: what each verb does to the store. No call here waits."""

from __future__ import annotations

import copy
import random
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.testbed.embedded import failure, gates, kinds, owners, patches, pods, validation
from tests.testbed.embedded.kinds import Kind
from tests.testbed.embedded.paths import Target
from tests.testbed.embedded.store import Object, Store

SUFFIX = "bcdfghjklmnpqrstvwxz2456789"  # the letters of generated names
KEPT = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "managedFields")
FOREGROUND = "foregroundDeletion"
EVENT_WORDS = {"regarding": "involvedObject", "note": "message", "reportingController": "reportingComponent"}


def now(later_s: float = 0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=later_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Objects:
    """The verbs over one store, for one minor version of Kubernetes."""

    def __init__(self, store: Store, minor: int) -> None:
        self.store, self.minor = store, minor
        self.served = kinds.built_in(minor)
        self.accounts = True  # a pod needs its service account, as the admission plugin asks
        self._random = random.Random(uuid.uuid4().int)

    # reading

    def get(self, target: Target) -> Object:
        found = self.store.get(target.kind.storage, target.namespace, target.name)
        if found is None:
            raise failure.missing(target.kind, target.name)
        return shown(target.kind, found)

    # writing

    def create(self, target: Target, obj: Object, manager: str, *, trial: bool = False) -> Object:
        """Store a new object; on trial it is only answered as it would be stored."""
        kind = target.kind
        obj = stored(kind, copy.deepcopy(obj))
        meta = self._named(target, obj)
        if meta.get("resourceVersion"):
            raise failure.Failure(500, "", "resourceVersion should not be set on objects to be created")
        self._check_namespace(kind, target.namespace, meta["name"])
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink", "generation"):
            meta.pop(name, None)
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
        if kind.generation:
            meta["generation"] = 1
        if "status" in kind.subresources:
            obj.pop("status", None)
        gates.drop(kind, self.minor, obj)
        validation.check_new(kind, self.minor, obj)
        self._prepare(kind, obj)
        if self.store.get(kind.storage, target.namespace, meta["name"]) is not None:
            raise failure.exists(kind, meta["name"])
        owners.note(kind, None, obj, manager, "", now())
        return shown(kind, obj if trial else self._stored(kind, obj))

    def _named(self, target: Target, obj: Object) -> Object:
        kind, meta = target.kind, obj.setdefault("metadata", {})
        check_type(kind, obj)
        if not meta.get("name"):
            if not meta.get("generateName"):
                text = "name or generateName is required"
                raise failure.invalid(kind, "", [failure.required("metadata.name", text)])
            meta["name"] = meta["generateName"][:58] + "".join(self._random.choices(SUFFIX, k=5))
        if kind.namespaced:
            if meta.setdefault("namespace", target.namespace) != target.namespace:
                raise failure.bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
        else:
            meta.pop("namespace", None)
        return meta

    def _check_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        if not kind.namespaced:
            return
        spaces = self.served["", "v1", "namespaces"]
        space = self.store.get("namespaces", "", namespace)
        if space is None:
            raise failure.missing(spaces, namespace)
        if space["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise failure.forbidden(kind, name, why)

    def _prepare(self, kind: Kind, obj: Object) -> None:
        match kind.resource:
            case "pods":
                account = obj["spec"].get("serviceAccountName") or "default"
                space = obj["metadata"]["namespace"]
                if self.accounts and self.store.get("serviceaccounts", space, account) is None:
                    why = f'error looking up service account {space}/{account}: serviceaccount "{account}" not found'
                    raise failure.forbidden(kind, obj["metadata"]["name"], why)
                pods.prepare(obj)
            case "namespaces":
                obj["spec"], obj["status"] = {"finalizers": ["kubernetes"]}, {"phase": "Active"}
                labels = obj["metadata"].setdefault("labels", {})
                labels["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
            case "nodes":
                obj.setdefault("status", {})
            case "secrets":
                obj.setdefault("type", "Opaque")
            case "resourceclaims.resource.k8s.io":
                obj["status"] = {}
                default_requests(obj["spec"])
            case "resourceclaimtemplates.resource.k8s.io":
                default_requests(obj["spec"].get("spec") or {})
            case "customresourcedefinitions.apiextensions.k8s.io":
                names = obj["spec"]["names"]
                names.setdefault("singular", names["kind"].lower())
                names.setdefault("listKind", names["kind"] + "List")
                happened = {"lastTransitionTime": now(), "status": "True"}
                obj["status"] = {
                    "conditions": [happened | {"type": word} for word in ("NamesAccepted", "Established")],
                    "acceptedNames": names,
                    "storedVersions": [one["name"] for one in obj["spec"]["versions"] if one.get("storage")],
                }

    def _stored(self, kind: Kind, obj: Object) -> Object:
        put = self.store.put(kind.storage, obj)
        if kind.kind == "CustomResourceDefinition":
            group, plural = put["spec"]["group"], put["spec"]["names"]["plural"]
            for key in [key for key in self.served if (key[0], key[2]) == (group, plural)]:
                del self.served[key]
            for added in kinds.from_definition(put):
                self.served[added.group, added.version, added.plural] = added
        return put

    def replace(self, target: Target, obj: Object, manager: str) -> Object:
        """PUT on an object or its status."""
        kind = target.kind
        check_type(kind, obj)
        if (name := obj.get("metadata", {}).get("name")) != target.name:
            raise failure.bad_request(
                f"the name of the object ({name}) does not match the name on the URL ({target.name})"
            )
        before = self.store.get(kind.storage, target.namespace, target.name)
        if before is None:
            if kind.creates_on_put and not target.sub and not obj["metadata"].get("resourceVersion"):
                return self.create(target, obj, manager)
            raise failure.missing(kind, target.name)
        version = obj["metadata"].get("resourceVersion")
        if not version and not kind.unconditional:
            field = failure.wrong("metadata.resourceVersion", "0: must be specified for an update")
            raise failure.invalid(kind, target.name, [field])
        after = stored(kind, copy.deepcopy(obj))
        return self._update(target, before, after, lambda: owners.note(kind, before, after, manager, target.sub, now()))

    def patch(self, target: Target, change: Any, content: str, manager: str) -> Object:
        kind, before = target.kind, self.store.get(target.kind.storage, target.namespace, target.name)
        if content.startswith("application/strategic") and kind.custom:
            raise failure.Failure(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: "
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            )
        if before is None:
            raise failure.missing(kind, target.name)
        old = shown(kind, before)
        if content.startswith("application/json-patch"):
            after = patches.apply_operations(old, change)
        elif content.startswith("application/strategic"):
            after = patches.strategic(copy.deepcopy(old), change)
        else:
            after = patches.merge(copy.deepcopy(old), change)
        check_type(kind, after)
        if after["metadata"].get("name") != target.name:
            text = f"the name of the object ({after['metadata'].get('name')}) does not match the name on the URL ({target.name})"
            raise failure.bad_request(text)
        if after["metadata"].get("uid") != before["metadata"]["uid"]:
            text = f'"{after["metadata"].get("uid")}": field is immutable'
            raise failure.invalid(kind, target.name, [failure.wrong("metadata.uid", text)])
        after = stored(kind, copy.deepcopy(after))
        return self._update(target, before, after, lambda: owners.note(kind, before, after, manager, target.sub, now()))

    def apply(self, target: Target, config: Object, manager: str, force: bool) -> tuple[Object, bool]:
        """Return the object and whether it is new."""
        kind = target.kind
        check_type(kind, config)
        if not manager:
            raise failure.Failure(
                422,
                "Invalid",
                'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
            )
        if config.get("metadata", {}).get("managedFields"):
            raise failure.bad_request("metadata.managedFields must be nil")
        if config.get("metadata", {}).get("name", target.name) != target.name:
            raise failure.bad_request(
                f"the name of the object ({config['metadata']['name']}) does not match the name on the URL ({target.name})"
            )
        before = self.store.get(kind.storage, target.namespace, target.name)
        config = _writable(kind, config, target.sub)
        if before is None:
            if target.sub:
                raise failure.missing(kind, target.name)
            if config.get("metadata", {}).get("uid"):
                raise failure.conflict(
                    kind,
                    target.name,
                    "uid mismatch: the provided object specified a uid, and no existing object was found",
                )
            config.setdefault("metadata", {})["name"] = target.name
            made = self.create(target, config, manager)
            self._own_all(kind, target, config, manager)
            return self.get(Target(kind, target.namespace, made["metadata"]["name"])), True
        asked = config.get("metadata", {})
        after = owners.apply(kind, before, config, manager, target.sub, force, now())
        fields = after["metadata"]["managedFields"]
        after["metadata"]["resourceVersion"] = asked.get("resourceVersion")
        after["metadata"]["uid"] = asked.get("uid")

        def keep() -> None:
            after["metadata"]["managedFields"] = fields

        return self._update(target, before, after, keep), False

    def _own_all(self, kind: Kind, target: Target, config: Object, manager: str) -> None:
        """Turn the ownership of an object that an apply made into that of an apply; same version, nobody saw the other."""
        made = self.store.get(kind.storage, target.namespace, target.name)
        assert made is not None
        made["metadata"]["managedFields"] = []
        made["metadata"] = owners.apply(kind, made, config, manager, "", True, now())["metadata"]

    def _update(self, target: Target, before: Object, after: Object, own: Callable[[], None]) -> Object:
        """Check and store a change of an object, or of its status alone; drop it if it waited only for its finalizers."""
        kind, meta, was = target.kind, after.setdefault("metadata", {}), before["metadata"]
        if meta.get("uid") not in (None, "", was["uid"]):
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {was['uid']}"
            raise failure.conflict(kind, target.name, why)
        if meta.get("resourceVersion") not in (None, "", "0", was["resourceVersion"]):
            raise failure.conflict(kind, target.name)
        if kind.namespaced and meta.get("namespace") not in (None, "", target.namespace):
            raise failure.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        meta |= {"name": was["name"]} | ({"namespace": was["namespace"]} if kind.namespaced else {})
        for name in KEPT:
            meta.pop(name, None)
            if name in was:
                meta[name] = copy.deepcopy(was[name])
        meta["resourceVersion"] = was["resourceVersion"]
        if "generateName" in was:
            meta["generateName"] = was["generateName"]
        _keep_other_half(kind, before, after, target.sub)
        gates.drop(kind, self.minor, after)
        validation.check_update(kind, self.minor, before, after, target.sub)
        if kind.generation and not target.sub and _spec(before) != _spec(after):
            meta["generation"] = was["generation"] + 1
        own()
        if same(before, after):
            return shown(kind, before)
        if meta.get("deletionTimestamp") and not meta.get("finalizers") and removable(kind, after):
            return shown(kind, self.store.remove(kind.storage, after))
        return shown(kind, self._stored(kind, after))

    def delete(self, target: Target, options: Mapping[str, Any]) -> Object:
        kind, before = target.kind, self.store.get(target.kind.storage, target.namespace, target.name)
        if before is None:
            raise failure.missing(kind, target.name)
        self._check_preconditions(kind, before, options.get("preconditions") or {})
        after = copy.deepcopy(before)
        meta = after["metadata"]
        if options.get("propagationPolicy") == "Foreground" and FOREGROUND not in meta.get("finalizers", []):
            meta.setdefault("finalizers", []).append(FOREGROUND)
        grace = grace_s(kind, after, options.get("gracePeriodSeconds"))
        if not meta.get("finalizers") and not grace and kind.plural != "namespaces":
            return self._removed(kind, after)
        if not meta.get("deletionTimestamp"):
            if kind.plural == "namespaces":
                after["status"]["phase"] = "Terminating"
            else:
                meta["deletionGracePeriodSeconds"] = grace
            meta["deletionTimestamp"] = now(grace)
            if kind.generation:
                meta["generation"] += 1
        elif grace < meta.get("deletionGracePeriodSeconds", 0):
            meta |= {"deletionTimestamp": now(grace), "deletionGracePeriodSeconds": grace}
        return shown(kind, before if same(before, after) else self.store.put(kind.storage, after))

    def _check_preconditions(self, kind: Kind, obj: Object, asked: Mapping[str, Any]) -> None:
        for name, word in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            is_now = obj["metadata"][name]
            if asked.get(name) not in (None, is_now):
                found = f"does not match the {word} in record ({is_now})"
                guess = "The object might have been deleted and then recreated"
                why = f"the {word} in the precondition ({asked[name]}) {found}. {guess}"
                raise failure.conflict(kind, obj["metadata"]["name"], why)

    def _removed(self, kind: Kind, after: Object) -> Object:
        if kind.kind == "CustomResourceDefinition":
            for gone in kinds.from_definition(after):
                self.served.pop((gone.group, gone.version, gone.plural), None)
                self.store.objects.pop(gone.storage, None)
        removed = shown(kind, self.store.remove(kind.storage, after))
        if kind.returns_deleted:
            return removed
        meta = removed["metadata"]
        details = {"name": meta["name"], "kind": kind.plural, "uid": meta["uid"]}
        details |= {"group": kind.group} if kind.group else {}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def finish(self, kind: Kind, obj: Object) -> None:
        """Take away a namespace or pod whose deletion nothing holds up any more."""
        self.store.remove(kind.storage, copy.deepcopy(obj))

    def bind(self, target: Target, binding: Object, manager: str) -> Object:
        pod = self.store.get("pods", target.namespace, target.name)
        if pod is None:
            raise failure.missing(target.kind, target.name)
        after = pods.bound(target.kind, pod, binding, now())
        owners.note(target.kind, pod, after, manager, "binding", now())
        self.store.put("pods", after)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    def evict(self, target: Target, eviction: Object) -> Object:
        """There are no disruption budgets here: an eviction is a deletion."""
        self.delete(target, eviction.get("deleteOptions") or {})
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def default_requests(spec: Object) -> None:
    for request in (spec.get("devices") or {}).get("requests") or []:
        for one in [request.get("exactly"), *(request.get("firstAvailable") or [])]:
            if one is not None and one.setdefault("allocationMode", "ExactCount") == "ExactCount":
                one.setdefault("count", 1)


def check_type(kind: Kind, obj: Any) -> None:
    if not isinstance(obj, dict):
        raise failure.bad_request("the body of the request is no object")
    said = obj.get("apiVersion", kind.api_version), obj.get("kind", kind.kind)
    if said != (kind.api_version, kind.kind):
        text = f"{said[1]} in version {said[0]!r} cannot be handled as a {kind.kind}"
        raise failure.bad_request(text)


def grace_s(kind: Kind, obj: Object, asked: int | None) -> int:
    """Return how long a deletion waits: only pods that have a node and have not ended wait at all."""
    if kind.plural != "pods" or not obj["spec"].get("nodeName"):
        return 0
    if obj["status"].get("phase") in ("Succeeded", "Failed"):
        return 0
    return obj["spec"].get("terminationGracePeriodSeconds", 30) if asked is None else asked


def removable(kind: Kind, obj: Object) -> bool:
    return kind.plural != "namespaces" and not obj["metadata"].get("deletionGracePeriodSeconds")


def _writable(kind: Kind, config: Object, sub: str) -> Object:
    """Leave out what this endpoint does not write: status at the object, all but status at the status."""
    config = copy.deepcopy(config)
    if sub == "status":
        meta = {
            name: value
            for name, value in config.get("metadata", {}).items()
            if name in ("name", "uid", "resourceVersion")
        }
        return {"metadata": meta} | {name: config[name] for name in ("status",) if name in config}
    if "status" in kind.subresources:
        config.pop("status", None)
    return config


def _keep_other_half(kind: Kind, before: Object, after: Object, sub: str) -> None:
    """A write of the status leaves everything else as it is, and the other way round."""
    if sub == "status":
        version = after["metadata"]["resourceVersion"]
        status = after.get("status")
        fields = after["metadata"].get("managedFields")
        meta = copy.deepcopy(before["metadata"])
        if not kind.custom:  # labels, annotations and finalizers may be written with the status of most kinds
            for name in ("labels", "annotations", "finalizers"):
                meta.pop(name, None)
                if name in after["metadata"]:
                    meta[name] = after["metadata"][name]
        meta |= {"resourceVersion": version} | ({"managedFields": fields} if fields else {})
        for name in [one for one in after if one not in ("kind", "apiVersion")]:
            del after[name]
        after |= {name: copy.deepcopy(value) for name, value in before.items() if name not in ("metadata", "status")}
        after["metadata"] = meta
        if status is not None:
            after["status"] = status
        elif not kind.custom and "status" in before:
            after["status"] = {}
    elif "status" in kind.subresources:
        after.pop("status", None)
        if "status" in before:
            after["status"] = copy.deepcopy(before["status"])
    if kind.plural == "namespaces" and "spec" in before:
        after["spec"] = copy.deepcopy(before["spec"])


def _spec(obj: Object) -> Object:
    return {name: value for name, value in obj.items() if name not in ("metadata", "status", "kind", "apiVersion")}


def same(before: Object, after: Object) -> bool:
    """Tell whether a write changes nothing; then there is no new version. Times of managers do not count."""

    def plain(obj: Object) -> Object:
        meta = dict(obj["metadata"])
        fields = [{k: v for k, v in one.items() if k != "time"} for one in meta.get("managedFields") or []]
        return obj | {"metadata": meta | {"managedFields": fields}, "kind": "", "apiVersion": ""}

    return plain(before) == plain(after)


def stored(kind: Kind, obj: Object) -> Object:
    """Return the form in which an object is kept; Events of both groups are one."""
    if kind.group == "events.k8s.io":
        obj = {EVENT_WORDS.get(name, name): value for name, value in obj.items()}
    return obj


def shown(kind: Kind, obj: Object) -> Object:
    """Return the form that is sent."""
    if kind.group == "events.k8s.io":
        words = {short: long for long, short in EVENT_WORDS.items()}
        obj = {words.get(name, name): value for name, value in obj.items()}
    return {"kind": kind.kind, "apiVersion": kind.api_version} | {
        name: value for name, value in obj.items() if name not in ("kind", "apiVersion")
    }
