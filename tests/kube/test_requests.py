"""What pods ask for: claims, classes and selectors in the terms of a plan, and refusals that say why; and the way back."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from scheduler.kube import cel, claim, constraints, fleet, node, part, requests, rows
from scheduler.model import claim as claims
from scheduler.model import device, machines, request, slices
from scheduler.model import node as model
from scheduler.snapshot import state
from tests.kube import fleets
from tests.kube.fleets import exactly, spec

GPU, MIG, NIC, FPGA = "gpu.muster.dev", "mig.muster.dev", "nic.muster.dev", "accelerator.muster.dev"
OURS = "device.attributes['gpu.muster.dev']"
MODEL = f"{OURS}.productName"


def cut(name: str) -> model.NodeTopology:
    """Return a DGX A100 with its first two GPUs in MIG mode and two FPGAs."""
    made = machines.build("dgx-a100", name)
    gpus = tuple(replace(g, mig_enabled=g.index < 2, uuid=f"GPU-{name}-{g.index}") for g in made.gpus)
    fpgas = tuple(device.Accelerator(i, "fpga", "U250") for i in range(2))
    return replace(made, gpus=gpus, accelerators=fpgas)


def named(kind: str, name: str, fabric: str = "") -> model.NodeTopology:
    made = machines.build(kind, name)
    gpus = tuple(replace(g, uuid=f"GPU-{name}-{g.index}", fabric_id=fabric or g.fabric_id) for g in made.gpus)
    return replace(made, gpus=gpus)


FLEET = fleets.told(named("hgx-h100", "h0"), named("hgx-h100", "h1"), cut("a0"), named("dgx-1v", "v0"))
RACK = fleets.told(*(named("gb200-nvl72", f"t{i}", "11111111-0000-0000-0000-000000000000.3") for i in range(3)))
H100, A100, V100 = "H100-SXM5-80GB", "A100-SXM4-80GB", "V100-SXM2-32GB"
MODELS = {gpu.model.name for one in FLEET.machines() for gpu in one.topology.gpus}


def asks(*wanted: claim.Spec, of: fleet.Fleet = FLEET, pod: Any = None, **extended: str) -> request.PodRequest:
    specs = {f"c{i}": one for i, one in enumerate(wanted)}
    return requests.of(pod or fleets.pod(), specs, fleets.device_classes(**extended), of)


def expected(**fields: Any) -> request.PodRequest:
    return request.PodRequest(cpu_milli=2000, memory_mib=4096, **fields)


def test_models_of_the_fleet() -> None:
    assert {H100, A100, V100} == MODELS


ANSWERS: list[tuple[str, tuple[claim.Spec, ...], dict[str, Any]]] = [
    ("nothing", (), {}),
    ("whole", (spec(exactly("g", GPU, 8)),), {"gpus": 8}),
    (
        "several requests and claims",
        (spec(exactly("a", GPU, 2), exactly("b", GPU)), spec(exactly("n", NIC, 2))),
        {"gpus": 3, "nics": 2},
    ),
    ("one model", (spec(exactly("g", GPU, 1, f"{MODEL} == '{H100}'")),), {"gpus": 1, "gpu_models": (H100,)}),
    (
        "two models",
        (spec(exactly("g", GPU, 1, f"{MODEL} in ['{H100}', '{A100}']")),),
        {"gpus": 1, "gpu_models": (A100, H100)},
    ),
    (
        "narrowed",
        (spec(exactly("a", GPU, 1, f"{MODEL} != '{V100}'"), exactly("b", GPU, 1, f"{MODEL} != '{A100}'")),),
        {"gpus": 2, "gpu_models": (H100,)},
    ),
    (
        "by memory",
        (spec(exactly("g", GPU, 1, "device.capacity['gpu.muster.dev'].memory.compareTo(quantity('79.8Gi')) > 0")),),
        {"gpus": 1, "gpu_models": (A100,)},
    ),
    (
        "every model of today",
        (spec(exactly("g", GPU, 1, f"{MODEL} != 'K80'")),),
        {"gpus": 1, "gpu_models": (A100, H100, V100)},
    ),
    (
        "by capacity",
        (spec(exactly("g", GPU, 1, capacity={"requests": {"memory": "60Gi"}})),),
        {"gpus": 1, "gpu_models": (A100, H100)},
    ),
    (
        "share",
        (spec(exactly("g", GPU, 1, f"{MODEL} == '{H100}'", capacity={"requests": {"milli": "250"}})),),
        {"gpus": 1, "gpu_milli": 250, "gpu_models": (H100,)},
    ),
    ("partitions", (spec(exactly("g", MIG, 3, f"{OURS}.profile == '1g.10gb'")),), {"gpus": 3, "mig": "1g.10gb"}),
    ("accelerators", (spec(exactly("f", FPGA, 2)),), {"accelerators": (("fpga", 2),)}),
    ("admin", (spec(exactly("g", GPU, 1, adminAccess=True)),), {}),
    ("type by selector", (spec(exactly("g", "any.muster.dev", 2, f"{OURS}.type == 'gpu'")),), {"gpus": 2}),
    ("all", (spec(exactly("f", FPGA, allocationMode="All")),), {"accelerators": (("fpga", 2),)}),
    (
        "first alternative that exists",
        (
            spec(
                {
                    "name": "g",
                    "firstAvailable": [
                        exactly("x", GPU, 1, f"{MODEL} == 'B200'")["exactly"] | {"name": "best"},
                        exactly("x", GPU, 9)["exactly"] | {"name": "many"},
                        exactly("x", GPU, 2, f"{MODEL} == '{A100}'")["exactly"] | {"name": "good"},
                        exactly("x", GPU, 4)["exactly"] | {"name": "poor"},
                    ],
                }
            ),
        ),
        {"gpus": 2, "gpu_models": (A100,)},
    ),
]


@pytest.mark.parametrize(("specs", "fields"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
def test_asked(specs: tuple[claim.Spec, ...], fields: dict[str, Any]) -> None:
    assert asks(*specs) == expected(**fields)


REFUSALS: list[tuple[claim.Spec, str, bool]] = [
    (spec(exactly("g", "nobody")), "claim c0: request g: there is no DeviceClass nobody; create it, or", True),
    (spec(exactly("g", GPU, 1, f"{MODEL} == 'B200'")), "request g: no device of the cluster suits", True),
    (
        spec(exactly("g", GPU, 1, f"{OURS}.index == 3")),
        f"tell apart devices of {A100} .gpu-3 of node a0 suits and gpu-2 of node a0 does not",
        False,
    ),
    (
        spec(exactly("g", GPU, 1, f"{OURS}.uuid == 'GPU-h0-1'")),
        r"request g: can't be planned by Muster; selectors: .*uuid tells apart",
        False,
    ),
    (
        spec(exactly("g", GPU, 1, "device.x")),
        "can't be planned by Muster; selectors: 'device.x': device.x is not understood",
        False,
    ),
    (
        spec(exactly("g", GPU, 1, f"{OURS}.nothing == 1")),
        r"has no attribute or capacity nothing \(device gpu-\d of node",
        False,
    ),
    (spec(exactly("g", "any.muster.dev")), "means devices of types accelerator and gpu and mig and nic", False),
    (spec(exactly("g", MIG)), "means MIG profiles 1g.10gb, 1g.10gb.me, 1g.20gb, .*: select one", False),
    (
        spec(exactly("g", MIG, 1, f"{OURS}.profile == '1g.10gb' && {OURS}.start == 0")),
        "tell apart devices of A100",
        False,
    ),
    (spec(exactly("g", NIC, 1, f"{OURS}.index == 0")), "tell apart devices of this kind", False),
    (
        spec(exactly("g", GPU, 2, capacity={"requests": {"milli": "250"}})),
        "pod ml/p: 2 shares of GPUs in one pod",
        False,
    ),
    (spec(exactly("g", GPU, 1, capacity={"requests": {"milli": "1001"}})), "milli: 1001, a GPU has 1000", False),
    (
        spec(exactly("g", GPU, 1, capacity={"requests": {"milli": "x"}})),
        "capacity.requests.milli: 'x' is no quantity",
        False,
    ),
    (
        spec(exactly("g", GPU, 1, capacity={"requests": {"milli": "9", "memory": "1Gi"}})),
        "memory of a shared GPU can't be planned",
        False,
    ),
    (spec(exactly("g", NIC, 1, capacity={"requests": {"milli": "9"}})), "only whole GPUs can be shared", False),
    (
        spec(exactly("g", GPU), exactly("m", MIG, 1, f"{OURS}.profile == '1g.10gb'")),
        r"request g \(whole GPUs\) and .* \(partitions 1g.10gb\)",
        False,
    ),
    (
        spec(exactly("a", GPU, 1, f"{MODEL} == '{H100}'"), exactly("b", GPU, 1, f"{MODEL} == '{A100}'")),
        "another request of the pod another model",
        False,
    ),
    (spec(exactly("a", GPU, 33)), "claim c0: 33 devices, a claim can have 32", False),
    (spec(exactly("a", GPU), exactly("b", GPU, adminAccess=True)), "claim c0: mixes admin access", False),
    (spec(exactly("a", NIC, allocationMode="All")), "allocationMode All is 4 on v0, 8 on h0", False),
    (
        spec({"name": "g", "firstAvailable": [exactly("x", GPU, 9)["exactly"] | {"name": "b"}]}),
        "request g: no machine .* any of g/b",
        True,
    ),
    (
        spec(exactly("g", GPU, 2), constraints=[{"matchAttribute": "resource.kubernetes.io/numaNode"}]),
        "constraint on resource.kubernetes.io/numaNode: devices of",
        False,
    ),
    (
        spec(exactly("g", GPU, 2), constraints=[{"matchAttribute": "gpu.muster.dev/nothing"}]),
        "need not fulfil it",
        False,
    ),
    (spec(exactly("g", GPU, 2), constraints=[{"matchAttribute": "gpu.muster.dev/uuid"}]), "need not fulfil it", False),
    (
        spec(exactly("g", GPU, 2), constraints=[{"distinctAttribute": "gpu.muster.dev/productName"}]),
        "need not fulfil it",
        False,
    ),
    (spec(exactly("g", GPU, 2), constraints=[{}]), "need not fulfil it", False),
]


@pytest.mark.parametrize(("one", "problem", "passing"), REFUSALS)
def test_refused(one: claim.Spec, problem: str, passing: bool) -> None:
    with pytest.raises(requests.RequestError, match=problem) as refused:
        asks(one)
    assert refused.value.passing is passing


CONSTRAINTS: list[tuple[fleet.Fleet, list[dict[str, Any]]]] = [
    (FLEET, [{"matchAttribute": "gpu.muster.dev/productName"}]),
    (FLEET, [{"distinctAttribute": "gpu.muster.dev/uuid"}, {"distinctAttribute": "resource.kubernetes.io/pciBusID"}]),
    (RACK, [{"matchAttribute": "gpu.muster.dev/nvlinkDomain"}]),
    (FLEET, [{"requests": ["b"], "matchAttribute": "gpu.muster.dev/index"}]),
]


@pytest.mark.parametrize(("of", "constraints"), CONSTRAINTS)
def test_constraints_that_every_plan_fulfils_are_accepted(of: fleet.Fleet, constraints: list[dict[str, Any]]) -> None:
    assert asks(spec(exactly("a", GPU, 2), exactly("b", GPU), constraints=constraints), of=of).gpus == 3


def test_nvlink_domains_that_differ_within_a_machine_are_refused() -> None:
    odd = named("gb200-nvl72", "t9", "11111111-0000-0000-0000-000000000000.3")
    odd = replace(odd, gpus=(*odd.gpus[:-1], replace(odd.gpus[-1], fabric_id="11111111-0000-0000-0000-000000000000.4")))
    wanted = spec(exactly("a", GPU, 2), constraints=[{"matchAttribute": "gpu.muster.dev/nvlinkDomain"}])
    with pytest.raises(requests.RequestError, match="devices of t9 need not fulfil it"):
        asks(wanted, of=fleets.told(named("gb200-nvl72", "t0", "11111111-0000-0000-0000-000000000000.3"), odd))


def test_extended_resources_of_a_class_of_a_plugin_and_of_neither() -> None:
    own = fleets.pod(extended={"example.com/gpu": "2", "deviceclass.resource.kubernetes.io/nic.muster.dev": "1"})
    assert asks(pod=own, gpu="example.com/gpu") == expected(gpus=2, nics=1)
    plugged = fleets.told(named("hgx-h100", "h0"), **{"rdma/hca": "4"})
    plugged.update(
        node.read(fleets.node_object("l", {"nvidia.com/gpu.product": "L4"}, **{"nvidia.com/gpu": "4", "rdma/hca": "2"}))
    )
    plugged.refresh()
    gpus = fleets.pod(extended={"nvidia.com/gpu": "2", "rdma/hca": "2"})
    assert asks(pod=gpus, of=plugged) == expected(gpus=2, gpu_models=("nvidia.com/gpu:L4",))
    assert asks(spec(exactly("g", GPU, 2)), of=plugged) == expected(gpus=2, gpu_models=(H100,))
    with pytest.raises(requests.RequestError, match=r"pod ml/p: resources.requests rdma/hca: .*offers 3"):
        asks(pod=fleets.pod(extended={"rdma/hca": "3"}), of=plugged)


def test_asked_takes_claims_or_templates_and_names_what_is_missing() -> None:
    one, other = spec(exactly("g", GPU)), spec(exactly("n", NIC))
    made = claim.Claim("ml", "c", "u", "1", one)
    own = fleets.pod(a="c", b="d")
    with pytest.raises(
        requests.RequestError, match=r"spec[.]resourceClaims b: there is no ResourceClaim d$"
    ) as missing:
        requests.asked(own, {("ml", "c"): made}, {})
    assert missing.value.passing
    own = replace(own, claims=(own.claims[0], replace(own.claims[1], claim="", template="t")))
    assert requests.asked(own, {("ml", "c"): made}, {("ml", "t"): other}) == {"c": one, "b": other}


def grants(name: str) -> some.SearchStrategy[tuple[claim.Spec, state.Grant]]:
    """Return grants on a machine, with a claim that asks for them in one to three requests."""
    machine = FLEET.machine(name).topology  # type: ignore[union-attr]

    @some.composite
    def draw(draw: some.DrawFn) -> tuple[claim.Spec, state.Grant]:
        order = tuple(draw(some.permutations([g.index for g in machine.gpus if not g.mig_enabled])))
        order = order[: draw(some.integers(1, len(order)))]
        nics = draw(some.integers(0, (1 << len(machine.nics)) - 1))
        first = draw(some.integers(1, len(order)))
        wanted = [exactly("a", GPU, first)]
        wanted += [exactly("b", GPU, len(order) - first)] if first < len(order) else []
        wanted += [exactly("n", NIC, nics.bit_count())] if nics else []
        milli = draw(some.integers(1, 1000)) if len(order) == 1 else 1000
        if milli < 1000:
            wanted[0]["exactly"]["capacity"] = {"requests": {"milli": str(milli)}}
        mask = sum(1 << g for g in order)
        return spec(*wanted), state.Grant(0, mask, milli, order=order, nic_mask=nics)

    return draw()


@given(some.sampled_from(["h0", "a0", "v0"]).flatmap(lambda name: some.tuples(some.just(name), grants(name))))
def test_rows_read_back_are_the_grant_and_fulfil_every_request(
    drawn: tuple[str, tuple[claim.Spec, state.Grant]],
) -> None:
    name, (wanted, grant) = drawn
    own = FLEET.machine(name)
    assert own is not None
    ids = [f"id-{i}" for i in range(16)]
    found = rows.of({"c": wanted}, fleets.device_classes(), FLEET.catalog(), own, grant, ids)["c"]
    held = claims.held(own.topology, found)
    assert (held.gpus, held.milli, held.nic_mask) == (grant.gpus, grant.milli, grant.nic_mask)
    shape = FLEET.catalog().shape(own)
    assert shape is not None
    for one in wanted.requests:
        mine = [row for row in found if row.request == one.name]
        assert len(mine) == one.count
        text = fleets.CLASSES[one.device_class]
        assert all(cel.compile_expression(text).holds(shape.devices[row.device].seen) for row in mine)
        assert all(dict(row.consumed).get("milli") == grant.milli for row in mine if row.share_id)
    used = [row.share_id for row in found if row.share_id]
    assert len(set(used)) == len(used) == len(grant.gpus)


@given(some.data())
def test_rows_of_partitions_read_back(data: some.DataObject) -> None:
    own = FLEET.machine("a0")
    assert own is not None
    profile = data.draw(some.sampled_from(["1g.10gb", "2g.20gb", "3g.40gb", "7g.80gb"]))
    parts = [p for gpu in own.topology.gpus[:2] for p in claims.partitions_of(gpu) if p.profile.name == profile]
    chosen = data.draw(some.lists(some.sampled_from(parts), min_size=1, unique_by=lambda p: (p.gpu.index, p.slices)))
    wanted = spec(exactly("m", MIG, len(chosen), f"{OURS}.profile == '{profile}'"), exactly("f", FPGA))
    held = tuple((p.gpu.index, p.slices) for p in chosen)
    grant = state.Grant(0, partitions=held, accelerators=(("fpga", 1),))
    found = rows.of({"c": wanted}, fleets.device_classes(), FLEET.catalog(), own, grant, [], ["accelerator-0"])["c"]
    read = claims.held(own.topology, found)
    assert (read.partitions, read.accelerators) == (held, (1,))
    assert [row.request for row in found] == ["m"] * len(held) + ["f"]


def test_rows_are_checked_against_constraints_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = spec(exactly("g", GPU, 2), constraints=[{"matchAttribute": "resource.kubernetes.io/numaNode"}])
    monkeypatch.setattr(constraints, "check", lambda *_: None)
    assert [row.device for row in row_of(wanted, state.Grant(0, 0b11, 1000))] == ["gpu-0", "gpu-1"]
    with pytest.raises(requests.RequestError, match="gpu-0, gpu-7 of node h0 do not fulfil it"):
        row_of(wanted, state.Grant(0, 0b10000001, 1000))


def test_gpus_that_only_their_partitions_publish_are_never_given_out_whole() -> None:
    found = fleets.nvidia_partitions("m")
    assert asks(spec(exactly("g", "mig.nvidia.com", 2)), of=found) == expected(gpus=2, mig="1g.10gb")
    whole = machines.build("hgx-h100", "w")
    for item in slices.encode(whole, driver="gpu.nvidia.com"):
        text = json.dumps(item).replace(H100, "NVIDIA H100 80GB HBM3")
        found.update(part.read(json.loads(text)))
    found.update(node.read(fleets.node_object("w")))
    found.refresh()
    problem = "tell apart devices of H100-SXM5-80GB .gpu-0 of node w suits and a GPU of node m that is published by"
    with pytest.raises(requests.RequestError, match=problem):
        asks(spec(exactly("g", "gpu.nvidia.com", 2)), of=found)


def test_the_catalog_follows_the_fleet() -> None:
    found = fleets.told(named("hgx-h100", "h0"))
    wanted = spec(exactly("g", GPU, 1, f"{MODEL} == '{V100}'"))
    with pytest.raises(requests.RequestError, match="no device of the cluster suits"):
        asks(wanted, of=found)
    before = found.catalog()
    found.refresh()
    assert found.catalog() is before
    found.update(node.read(fleets.node_object("v0")))
    for item in slices.encode(named("dgx-1v", "v0")):
        found.update(part.read(item))
    found.refresh()
    assert asks(wanted, of=found).gpu_models == (V100,)


def test_claims_of_admin_access_have_no_rows() -> None:
    own = FLEET.machine("h0")
    assert own is not None
    specs = {"a": spec(exactly("g", GPU, adminAccess=True)), "b": spec(exactly("n", NIC))}
    found = rows.of(specs, fleets.device_classes(), FLEET.catalog(), own, state.Grant(0, nic_mask=8), [])
    assert {name: [row.device for row in given] for name, given in found.items()} == {"b": ["nic-3"]}


def row_of(wanted: claim.Spec, grant: state.Grant, name: str = "h0", of: fleet.Fleet = FLEET, ids: int = 8) -> Any:
    own = of.machine(name)
    assert own is not None
    return rows.of({"c": wanted}, fleets.device_classes(), of.catalog(), own, grant, [str(i) for i in range(ids)])["c"]


def test_rows_name_the_alternative_and_the_memory_asked_for() -> None:
    more = {"capacity": {"requests": {"memory": "1000000"}}}
    listed = exactly("x", GPU, 1, f"{MODEL} == '{H100}'", **more)["exactly"] | {"name": "h"}
    (row,) = row_of(spec({"name": "g", "firstAvailable": [listed]}), state.Grant(0, 4, 1000))
    assert row == claims.Allocation("gpu.muster.dev", "h0", "gpu-2", "g/h", "0", (("memory", 1 << 20), ("milli", 1000)))


WRONG: list[tuple[claim.Spec, state.Grant, str]] = [
    (spec(exactly("g", GPU, 2)), state.Grant(0, 1, 1000), "2 devices of type gpu are needed, and the plan has 1 left"),
    (spec(exactly("g", GPU, 1)), state.Grant(0, 3, 1000), "the plan has gpu-1, which no request asks for"),
    (spec(exactly("g", GPU, 1)), state.Grant(0, 1, 1000, nic_mask=2), "the plan has nic-1, which no request"),
    (spec(exactly("g", GPU, 1, f"{MODEL} == '{A100}'")), state.Grant(0, 1, 1000), "gpu-0 of node h0 does not suit"),
]


@pytest.mark.parametrize(("wanted", "grant", "problem"), WRONG)
def test_rows_of_a_grant_that_does_not_fit_are_refused(wanted: claim.Spec, grant: state.Grant, problem: str) -> None:
    with pytest.raises(requests.RequestError, match=problem):
        row_of(wanted, grant)


def test_a_divisible_gpu_without_share_id_is_refused() -> None:
    with pytest.raises(ValueError, match="gpu-0 of node h0: no share id is left"):
        row_of(spec(exactly("g", GPU)), state.Grant(0, 1, 1000), ids=0)
