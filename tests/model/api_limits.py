"""What an API server accepts of resource.k8s.io/v1 ResourceSlices, checked from the published constants alone.

Written from the limits of k8s.io/api and the validation rules of kube-apiserver at v0.34 to v0.37, not from our encoder:
it imports nothing of it. `minor` is the minor version of the server.
"""

import re
from collections import Counter
from fractions import Fraction
from typing import Any

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
BUS_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 10**3, "M": 10**6, "G": 10**9}


def value(quantity: str) -> Fraction:
    """Return the value of a plain quantity."""
    match = re.fullmatch(r"(\d+)([A-Za-z]*)", quantity)
    assert match and match[2] in UNITS, f"no quantity: {quantity}"
    return Fraction(match[1]) * UNITS[match[2]]


def check_pool(slices: list[dict[str, Any]], minor: int) -> None:
    """Fail on anything that a server of Kubernetes 1.`minor` would refuse, or that makes the pool invalid."""
    assert {s["spec"]["pool"]["resourceSliceCount"] for s in slices} == {len(slices)}
    assert len({s["spec"]["pool"]["generation"] for s in slices}) == 1
    assert len({s["spec"]["pool"]["name"] for s in slices}) == 1
    assert len({s["metadata"]["name"] for s in slices}) == len(slices)
    for item in slices:
        check_slice(item, minor)
    names = Counter(d["name"] for s in slices for d in s["spec"].get("devices", []))
    sets = Counter(c["name"] for s in slices for c in s["spec"].get("sharedCounters", []))
    assert all(n == 1 for n in (names | sets).values())
    check_consumption(slices, minor)


def check_slice(item: dict[str, Any], minor: int) -> None:
    """Check one object."""
    spec, name = item["spec"], item["metadata"]["name"]
    assert item["apiVersion"] == "resource.k8s.io/v1" and item["kind"] == "ResourceSlice"
    assert SUBDOMAIN.fullmatch(name) and len(name) <= 253
    assert sum(len(k) + len(v) for k, v in item["metadata"].get("annotations", {}).items()) <= 256 * 1024
    assert SUBDOMAIN.fullmatch(spec["driver"]) and len(spec["driver"]) <= 63
    assert len(spec["pool"]["name"]) <= 253 and all(SUBDOMAIN.fullmatch(p) for p in spec["pool"]["name"].split("/"))
    assert spec["pool"]["generation"] >= 0
    assert sum(key in spec for key in ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")) == 1
    devices, sets = spec.get("devices", []), spec.get("sharedCounters", [])
    lists = any(key.endswith("s") for d in devices for a in d["attributes"].values() for key in a)
    advanced = any("taints" in d or "consumesCounters" in d for d in devices) or (minor >= 36 and lists)
    assert len(devices) <= (64 if advanced and minor >= 35 else 128)
    if minor >= 35:
        assert "devices" not in spec or "sharedCounters" not in spec
        assert len(sets) <= 8 and all(len(s["counters"]) <= 32 for s in sets)
    else:
        assert sum(len(s["counters"]) for s in sets) <= 32
        assert sum(len(c["counters"]) for d in devices for c in d.get("consumesCounters", [])) <= 1024
    for counters in sets:
        assert LABEL.fullmatch(counters["name"]) and counters["counters"]
        assert all(LABEL.fullmatch(key) and value(c["value"]) >= 0 for key, c in counters["counters"].items())
    for entry in devices:
        check_device(entry, minor)


def check_device(entry: dict[str, Any], minor: int) -> None:
    """Check one device."""
    known = {"name", "attributes", "capacity", "consumesCounters", "allowMultipleAllocations", "taints"}
    assert set(entry) <= known
    attributes, capacity = entry["attributes"], entry.get("capacity", {})
    assert LABEL.fullmatch(entry["name"]), entry["name"]
    assert len(attributes) + len(capacity) <= 32
    values = [check_attribute(key, attribute) for key, attribute in attributes.items()]
    assert minor < 36 or sum(values) <= 48
    for key, amount in capacity.items():
        check_name(key)
        policy = amount.get("requestPolicy")
        assert policy is None or entry.get("allowMultipleAllocations") is True
        if policy:
            check_policy(value(amount["value"]), policy)
    consumed = entry.get("consumesCounters", [])
    assert len(consumed) <= 2 and all(c["counters"] and len(c["counters"]) <= 32 for c in consumed)
    if bus := attributes.get("resource.kubernetes.io/pciBusID"):
        assert BUS_ID.fullmatch(bus["string"])


def check_name(key: str) -> None:
    """Check a qualified name."""
    domain, _, identifier = key.rpartition("/")
    assert not domain or (SUBDOMAIN.fullmatch(domain) and len(domain) <= 63)
    assert IDENTIFIER.fullmatch(identifier), key


def check_attribute(key: str, attribute: dict[str, Any]) -> int:
    """Check an attribute and return how many values it has."""
    check_name(key)
    ((kind, content),) = attribute.items()
    elements = content if kind in ("ints", "bools", "strings", "versions") else [content]
    assert elements
    for element in elements:
        match kind.removesuffix("s"):
            case "string":
                assert isinstance(element, str) and len(element.encode()) <= 64
            case "version":
                assert SEMVER.fullmatch(element) and len(element) <= 64
            case "int":
                assert type(element) is int and -(2**63) <= element < 2**63
            case "bool":
                assert type(element) is bool
            case _:
                raise AssertionError(f"{key}: unknown kind {kind}")
    return len(elements)


def check_policy(total: Fraction, policy: dict[str, Any]) -> None:
    """Check a request policy with a range, as validateRequestPolicyRange does."""
    limits = policy["validRange"]
    low, default = value(limits["min"]), value(policy["default"])
    high = value(limits["max"]) if "max" in limits else total
    assert low <= default <= high <= total
    if "step" in limits:
        step = value(limits["step"])
        assert low + step <= total
        assert (default - low) % step == 0
        assert "max" not in limits or (high - low) % step == 0


def check_consumption(slices: list[dict[str, Any]], minor: int) -> None:
    """Check that counters are drawn from sets that exist, and never more than there is."""
    sets = {c["name"]: c["counters"] for s in slices for c in s["spec"].get("sharedCounters", [])}
    for item in slices:
        local = {c["name"] for c in item["spec"].get("sharedCounters", [])}
        for entry in item["spec"].get("devices", []):
            for draw in entry.get("consumesCounters", []):
                assert draw["counterSet"] in (sets if minor >= 35 else local)
                for counter, amount in draw["counters"].items():
                    assert value(amount["value"]) <= value(sets[draw["counterSet"]][counter]["value"])
