"""ResourceSlices hold everything about a node's devices, within all limits, and come back as the same node."""

import copy
import json
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import claim, device, gpu_models, machines, node, peers, published, slices
from tests.model import api_limits, strategies

FORMS = [
    (minor, slices.layout(minor, partitionable=p, consumable=c))
    for minor in (34, 35, 36, 37)
    for p in (False, True)
    for c in (False, True)
]
FORMS += [(36, slices.layout(36, lists=True)), (37, slices.layout(37, lists=True))]


def cut(machine: node.NodeTopology) -> node.NodeTopology:
    """Put every GPU into MIG mode."""
    return replace(machine, gpus=tuple(replace(gpu, mig_enabled=True) for gpu in machine.gpus))


def devices_only(machine: node.NodeTopology) -> node.NodeTopology:
    """Drop what the Node object has."""
    return replace(machine, cpu_milli=0, memory_mib=0, labels=(), max_pods=1001)


def wire(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Send objects through JSON, last one first, as a list call may return them."""
    sent: list[dict[str, Any]] = json.loads(json.dumps(objects))
    return sent[::-1]


@pytest.mark.parametrize("kind", machines.KINDS)
@pytest.mark.parametrize(("minor", "form"), FORMS)
def test_every_known_machine_survives_the_round_trip(kind: str, minor: int, form: slices.Layout) -> None:
    for machine in (machines.build(kind, "n"), cut(machines.build(kind, "n"))):
        objects = slices.encode(machine, 3, form)
        api_limits.check_pool(objects, minor)
        assert slices.decode(wire(objects)) == devices_only(machine)


@settings(max_examples=100, deadline=None)
@given(strategies.topologies(max_gpus=16), st.sampled_from(FORMS), st.integers(0, 2**31))
def test_any_machine_survives_the_round_trip(
    machine: node.NodeTopology, version: tuple[int, slices.Layout], generation: int
) -> None:
    minor, form = version
    objects = slices.encode(machine, generation, form)
    api_limits.check_pool(objects, minor)
    assert slices.decode(wire(objects)) == machine


@given(strategies.topologies())
def test_encoding_is_deterministic(machine: node.NodeTopology) -> None:
    assert json.dumps(slices.encode(machine)) == json.dumps(slices.encode(copy.deepcopy(machine)))


def entries(machine: node.NodeTopology, form: slices.Layout | None = None) -> list[dict[str, Any]]:
    """Return all devices in the order in which first fit tries them."""
    return [d for s in slices.encode(machine, 1, form) for d in s["spec"].get("devices", [])]


def test_a_node_without_devices_publishes_one_empty_slice() -> None:
    (only,) = slices.encode(node.NodeTopology("n"))
    assert only["spec"]["pool"] == {"name": "n", "generation": 1, "resourceSliceCount": 1}
    assert "devices" not in only["spec"]
    assert slices.decode([only]) == node.NodeTopology("n")


def test_a_cut_node_of_eight_gpus_has_208_devices_in_counters_and_chunks() -> None:
    objects = slices.encode(cut(machines.build("hgx-h100", "n")))
    drawing = [d for d in entries(cut(machines.build("hgx-h100", "n"))) if "consumesCounters" in d]
    assert len(drawing) == 208
    assert [len(s["spec"].get("sharedCounters", [])) for s in objects] == [8, 0, 0, 0, 0, 0, 0]
    combined = slices.encode(cut(machines.build("hgx-h100", "n")), 1, slices.layout(34, partitionable=True))
    assert [len(s["spec"].get("sharedCounters", [])) for s in combined] == [0, 3, 3, 2]


def test_counters_allow_exactly_what_the_slices_allow() -> None:
    machine = cut(machines.build("gb200-nvl72", "n"))
    (gpu, *_) = machine.gpus
    drawn = {d["name"]: set(d["consumesCounters"][0]["counters"]) for d in entries(machine) if "consumesCounters" in d}
    parts = list(claim.partitions_of(gpu))
    for a, b in combinations(parts, 2):
        assert (drawn[a.name] & drawn[b.name] == set()) == (a.slices & b.slices == 0)
    for part in parts:
        assert drawn[part.name] <= drawn[gpu.name]


def test_without_counters_on_the_server_no_partition_is_published() -> None:
    published_types = {
        d["attributes"]["type"]["string"] for d in entries(cut(machines.build("hgx-h100", "n")), slices.layout(35))
    }
    assert published_types == {"gpu", "nic"}


def test_a_divisible_gpu_has_a_thousand_thousandths_and_gives_all_of_them_by_default() -> None:
    first = entries(machines.build("l40s-8", "n"))[0]
    assert first["allowMultipleAllocations"] is True
    assert first["capacity"]["milli"]["value"] == first["capacity"]["milli"]["requestPolicy"]["default"] == "1000"
    whole = entries(machines.build("l40s-8", "n"), slices.layout(35))[0]
    assert "allowMultipleAllocations" not in whole and "milli" not in whole["capacity"]


def first_fit(entries_of_type: list[dict[str, Any]], count: int) -> list[int]:
    """Take the first so many, as kube-scheduler's allocator does when nothing constrains it."""
    return sorted(d["attributes"]["index"]["int"] for d in entries_of_type[:count])


def test_list_order_gives_first_fit_well_joined_gpus() -> None:
    crossed = [d for d in entries(machines.build("a100-pcie-pairs-crossed", "n")) if d["name"].startswith("gpu")]
    assert first_fit(crossed, 2) == [0, 2]
    mesh = [d for d in entries(machines.build("dgx-1v", "n")) if d["name"].startswith("gpu")]
    assert first_fit(mesh, 4) == [0, 1, 2, 3]
    links = machines.build("dgx-1v", "n").link_counts()
    a, b = first_fit(mesh, 2)
    assert links[a][b] == 2


def test_partitions_come_before_whole_gpus_and_small_ones_at_the_end_of_a_gpu_first() -> None:
    listed = [d for d in entries(cut(machines.build("gb200-nvl72", "n"))) if "consumesCounters" in d]
    types = [d["attributes"]["type"]["string"] for d in listed]
    assert types == sorted(types, reverse=True)
    smallest = [d for d in listed if d["attributes"].get("profile") == {"string": "1g.24gb"}]
    starts = [
        d["attributes"]["start"]["int"] for d in smallest if d["attributes"]["parentUUID"] == {"string": "GPU-n-0"}
    ]
    assert starts == [6, 4, 5, 2, 3, 0, 1]


def test_partitions_say_nothing_about_nvlink() -> None:
    for d in entries(cut(machines.build("hgx-h100", "n"))):
        if d["attributes"]["type"] == {"string": "mig"}:
            assert not any("nvlink" in key for key in d["attributes"])


def test_users_can_match_pairs_islands_racks_and_rails() -> None:
    tray = machines.nvl72("r", "7d3b5e6a-0000-4000-8000-0123456789ab", 5)[0]
    gpu = next(d for d in entries(tray) if d["name"] == "gpu-1")["attributes"]
    assert gpu["nvlinkDomain"] == {"string": "7d3b5e6a-0000-4000-8000-0123456789ab.5"}
    assert (gpu["nvlinkPair"], gpu["nvlinkIsland"]) == ({"int": 0}, {"int": 0})
    nic = next(d for d in entries(tray) if d["name"] == "nic-1")["attributes"]
    assert gpu["rail"] == nic["rail"]


@given(strategies.topologies(max_gpus=16))
def test_link_texts_fit_and_come_back(machine: node.NodeTopology) -> None:
    for gpu in machine.gpus:
        texts = peers.texts(machine, gpu.index)
        assert all(len(text) <= 64 for text in texts)
        found = sorted(link for text in texts for link in peers.parse(gpu.index, text))
        joined = [link for link in machine.nvlinks if gpu.index in (link.a, link.b)]
        assert found == sorted((link.a + link.b - gpu.index, link.links, link.gbps) for link in joined)


def test_selectors_for_nvidias_driver_find_the_same_names_and_types() -> None:
    """A missing attribute is a runtime error of a selector, and fails the whole pod."""
    machine = replace(machines.build("hgx-h100", "n"), driver_version="580.65.6", cuda_version="13.0.0")
    common = {"type", "productName", "brand", "architecture", "addressingMode"}
    versions = {"cudaComputeCapability": "9.0.0", "driverVersion": "580.65.6", "cudaDriverVersion": "13.0.0"}
    engines = {"multiprocessors", "copyEngines", "decoders", "encoders", "jpegEngines", "ofaEngines"}
    for entry in (d for d in entries(cut(machine)) if not d["name"].startswith("nic")):
        attributes, capacity = entry["attributes"], entry["capacity"]
        assert common <= attributes.keys() and engines | {"memory"} <= capacity.keys()
        assert {key: attributes[key] for key in versions} == {key: {"version": text} for key, text in versions.items()}
        assert ("uuid" if attributes["type"] == {"string": "gpu"} else "parentUUID") in attributes
    small = next(d for d in entries(cut(machine)) if d["attributes"].get("profile") == {"string": "1g.20gb"})
    whole = next(d for d in entries(cut(machine)) if d["name"] == "gpu-0")
    assert [d["capacity"]["multiprocessors"]["value"] for d in (small, whole)] == ["26", "132"]


def test_a_share_of_a_gpu_takes_no_engines_but_those_it_asks_for() -> None:
    """What has no policy is taken whole by the first share."""
    for entry in entries(machines.build("hgx-h100", "n"), slices.layout(37)):
        for name, amount in entry.get("capacity", {}).items():
            policy = amount.get("requestPolicy", {"default": amount["value"]})
            assert policy["default"] == ("1000" if name == "milli" else "0")


def test_slices_of_an_older_driver_are_read() -> None:
    objects = slices.encode(cut(machines.build("dgx-a100", "n")))
    for item in objects:
        facts = json.loads(item["metadata"]["annotations"]["muster.dev/node"])
        for profile in (p for model in facts["models"].values() for p in model["mig"]):
            del profile["engines"]
        item["metadata"]["annotations"]["muster.dev/node"] = json.dumps(facts)
        for entry in item["spec"].get("devices", ()):
            for key in ("brand", "cudaComputeCapability", "addressingMode"):
                entry["attributes"].pop(key, None)
    found = slices.decode(objects)
    assert [p.name for p in found.gpus[0].model.mig] == [p.name for p in gpu_models.A100_SXM4_80.mig]
    assert found.gpus[0].model.compute_capability == ""


def test_the_worst_taints_are_kept_where_a_server_takes_few() -> None:
    def taint(key: str, effect: str) -> dict[str, str]:
        return {"key": f"gpu.muster.dev/{key}", "effect": effect}

    given = [taint(key, "NoSchedule") for key in "abcd"] + [taint("n", "None"), taint("xid", "NoExecute")]
    for minor, kept in ((34, ["a", "b", "c", "xid"]), (37, ["a", "b", "c", "d", "n", "xid"])):
        objects = slices.encode(machines.build("dgx-1v", "n"), 1, slices.layout(minor), taints={"gpu-3": given})
        (entry,) = [d for item in objects for d in item["spec"]["devices"] if d["name"] == "gpu-3"]
        assert [one["key"].rpartition("/")[2] for one in entry["taints"]] == kept


# Bad input


def small() -> list[dict[str, Any]]:
    return slices.encode(machines.build("a100-pcie-pairs", "n"))


def broken(change: Any) -> list[dict[str, Any]]:
    objects = small()
    change(objects)
    return objects


def attributes(objects: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = objects[0]["spec"]["devices"][index]["attributes"]
    return found


def set_peers(objects: list[dict[str, Any]], text: str) -> None:
    attributes(objects)["nvlinkPeers"] = {"string": text}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.clear(), "no slices"),
        (lambda o: o.append("text"), r"slice \(unnamed\): spec.pool.name: missing"),
        (lambda o: o[0]["spec"]["pool"].pop("name"), "slice n-gpu.muster.dev-000: spec.pool.name: missing"),
        (lambda o: o[0]["spec"]["pool"].update(generation="1"), "spec.pool.generation: not an integer"),
        (lambda o: o[0]["spec"]["pool"].update(resourceSliceCount=2), "pool n: generation 1 has 1 of 2 slices"),
        (lambda o: o.extend(slices.encode(machines.build("l40s-8", "m"))), "slices of several pools: m of gpu"),
        (lambda o: o[0]["spec"].update(devices={}), None),
        (lambda o: o[0]["spec"].update(devices="gpu-0"), "spec.devices: not a list"),
        (lambda o: o[0]["spec"]["devices"].append({}), "spec.devices: an entry without a name"),
        (lambda o: o[0]["spec"]["devices"].append(o[0]["spec"]["devices"][0]), "device gpu-0: name: the pool has two"),
        (
            lambda o: o[0]["spec"]["devices"][0].update(attributes=[1]),
            "device gpu-0: attributes or capacity: not a map",
        ),
        (lambda o: attributes(o).update(index={"string": "0"}), "device gpu-0: attributes.index: expected int or ints"),
        (lambda o: attributes(o).update(index={"int": True}), "device gpu-0: attributes.index: expected int"),
        (lambda o: attributes(o).update(index={"int": 1}), "attributes.index: two GPUs have the same index"),
        (lambda o: attributes(o).update(uuid={"string": "x", "int": 1}), "attributes.uuid: exactly one typed value"),
        (lambda o: set_peers(o, "12@25.0"), "device gpu-0: attributes.nvlinkPeers: '12@25.0' is not LINKS@GBPS:PEERS"),
        (lambda o: set_peers(o, "4@25.0:1"), "device gpu-1: attributes.nvlinkPeers: disagrees with GPU 0"),
        (
            lambda o: o[0]["spec"]["devices"][0]["capacity"]["memory"].update(value="many"),
            "gpu-0: capacity.memory: no quant",
        ),
        (lambda o: o[0]["spec"]["devices"][0]["capacity"]["memory"].update(value="-1Mi"), "capacity.memory: negative"),
        (
            lambda o: o[0]["metadata"]["annotations"].update({"muster.dev/node": "{"}),
            "annotation muster.dev/node: no JSON",
        ),
        (lambda o: o[0]["metadata"]["annotations"].update({"muster.dev/node": "[]"}), "muster.dev/node: not a mapping"),
        (
            lambda o: o[0]["metadata"]["annotations"].update({"muster.dev/node": '{"nvswitches": "4"}'}),
            "annotation muster.dev/node: nvswitches: no int",
        ),
        (
            lambda o: o[0]["metadata"]["annotations"].update({"muster.dev/node": '{"numaDistances": [[10], 5]}'}),
            "pool n: ",
        ),
    ],
)
def test_bad_slices_are_refused_with_the_place(change: Any, message: str | None) -> None:
    objects = broken(change)
    if message is None:
        assert slices.decode(objects).gpus == ()
        return
    with pytest.raises(published.SliceError, match=message):
        slices.decode(objects)


def test_unknown_attributes_and_old_generations_are_ignored() -> None:
    def change(objects: list[dict[str, Any]]) -> None:
        attributes(objects)["example.com/colour"] = {"string": "red"}
        attributes(objects)["future"] = {"strings": ["a"]}
        objects[0]["spec"]["future"] = 1
        stale = slices.encode(machines.build("l40s-8", "n"), 0)
        objects.extend(stale)

    assert slices.decode(broken(change)) == devices_only(machines.build("a100-pcie-pairs", "n"))


def test_a_missing_gpu_keeps_the_names_and_links_of_the_others() -> None:
    objects = small()
    objects[0]["spec"]["devices"] = [d for d in objects[0]["spec"]["devices"] if d["name"] != "gpu-1"]
    found = slices.decode(objects)
    assert [gpu.name for gpu in found.gpus] == ["gpu-0", "gpu-2", "gpu-3"]
    assert [(link.a, link.b) for link in found.nvlinks] == [(1, 2)]


def test_without_the_annotation_the_mig_table_comes_from_the_partitions() -> None:
    machine = cut(machines.build("aws-p4d", "n"))
    objects = slices.encode(machine)
    for item in objects:
        del item["metadata"]["annotations"]
    found = slices.decode(objects).gpus[0].model
    assert {p.name: p for p in found.mig} == {p.name: p for p in gpu_models.A100_SXM4_40.mig}
    assert found.compute_slices == 7


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        ({"uuid": "x" * 65}, "device gpu-0: attributes.uuid: longer than 64 bytes"),
        ({"pci_bus_id": "00000000:07:00.0"}, "pci_bus_id '00000000:07:00.0' is not of the form"),
        ({"device_name": "GPU_0"}, "device GPU_0: name: no DNS label"),
    ],
)
def test_what_the_api_would_refuse_is_refused_before(gpu: dict[str, str], message: str) -> None:
    machine = node.NodeTopology("n", gpus=(device.Gpu(0, gpu_models.T4, **gpu),))  # type: ignore[arg-type]
    with pytest.raises(published.SliceError, match=message):
        slices.encode(machine)


def test_long_node_names_make_valid_and_different_slice_names() -> None:
    names = {slices.encode(node.NodeTopology(f"{'a' * 240}.{i}"))[0]["metadata"]["name"] for i in range(3)}
    assert len(names) == 3
    assert all(len(name) <= 253 and api_limits.SUBDOMAIN.fullmatch(name) for name in names)


def test_slice_names_sort_as_the_list_does() -> None:
    names = [s["metadata"]["name"] for s in slices.encode(cut(machines.build("hgx-b200", "n")))]
    assert names == sorted(names)


def test_a_dump_of_a_cluster_is_grouped_by_pool() -> None:
    both = small() + slices.encode(cut(machines.build("hgx-h100", "m")))
    groups = slices.pools(both)
    assert {key: len(group) for key, group in groups.items()} == {
        ("n", "gpu.muster.dev"): 1,
        ("m", "gpu.muster.dev"): 7,
    }
    assert slices.decode(groups["m", "gpu.muster.dev"]).name == "m"


# NVIDIA's own driver


def nvidia_gpu(minor: int, product: str = "NVIDIA A100-SXM4-40GB") -> dict[str, Any]:
    return {
        "name": f"gpu-{minor}",
        "attributes": {
            "type": {"string": "gpu"},
            "uuid": {"string": f"GPU-{minor}"},
            "productName": {"string": product},
            "architecture": {"string": "Ampere"},
            "driverVersion": {"version": "580.126.20"},
            "resource.kubernetes.io/pciBusID": {"string": f"0000:0{minor}:00.0"},
            "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"},
            "resource.kubernetes.io/numaNode": {"ints": [1]},
        },
        "capacity": {"memory": {"value": "40Gi"}},
    }


def nvidia_mig(minor: int, profile: str, number: int, start: int, width: int) -> dict[str, Any]:
    slots = {f"memorySlice{i}": {"value": "1"} for i in range(start, start + width)}
    return {
        "name": f"gpu-{minor}-mig-{profile.replace('.', '').replace('+', '-')}-{number}-{start}",
        "attributes": {
            "type": {"string": "mig"},
            "parentUUID": {"string": f"GPU-{minor}"},
            "profile": {"string": profile},
            "productName": {"string": "NVIDIA Mystery"},
            "architecture": {"string": "Blackwell"},
        },
        "capacity": {"memory": {"value": "4864Mi"}, **slots},
    }


def nvidia_pool(*devices: dict[str, Any]) -> list[dict[str, Any]]:
    pool = {"name": "n", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "gpu.nvidia.com", "nodeName": "n", "pool": pool, "devices": list(devices)}
    return [{"metadata": {"name": "n-gpu.nvidia.com-x7z"}, "spec": spec}]


def test_nvidias_slices_give_products_places_and_memory() -> None:
    found = slices.decode(
        nvidia_pool(nvidia_gpu(3), nvidia_gpu(0), {"name": "gpu-vfio-0", "attributes": {"type": {"string": "vfio"}}})
    )
    assert [(gpu.name, gpu.numa, gpu.uuid) for gpu in found.gpus] == [("gpu-0", 1, "GPU-0"), ("gpu-3", 1, "GPU-3")]
    assert found.gpus[1].model == gpu_models.A100_SXM4_40
    assert not found.gpus[0].divisible


def test_static_partitions_of_nvidias_bring_back_their_gpu_and_its_table() -> None:
    parts = [nvidia_mig(1, "1g.5gb", 19, s, 1) for s in (0, 1, 2)] + [nvidia_mig(1, "2g.10gb", 14, 4, 2)]
    (gpu,) = slices.decode(nvidia_pool(*parts)).gpus
    assert (gpu.uuid, gpu.mig_enabled, gpu.name) == ("GPU-1", True, "gpu-1")
    table = {p.name: (p.profile_id, p.compute, p.memory_slices, p.starts) for p in gpu.model.mig}
    assert table == {"1g.5gb": (19, 1, 1, (0, 1, 2)), "2g.10gb": (14, 2, 2, (4,))}


def test_nvidia_names_of_another_form_are_refused() -> None:
    with pytest.raises(published.SliceError, match="device mig-0: name: not that of a device of type gpu"):
        slices.decode(nvidia_pool(nvidia_gpu(0) | {"name": "mig-0"}))


def test_the_older_api_with_its_extra_level_is_read() -> None:
    objects = small()
    for entry in objects[0]["spec"]["devices"]:
        entry["basic"] = {"attributes": entry.pop("attributes"), "capacity": entry.pop("capacity", {})}
    assert slices.decode(objects) == devices_only(machines.build("a100-pcie-pairs", "n"))
