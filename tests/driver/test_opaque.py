"""Opaque configurations, decoded strictly."""

import pytest

from dra_driver import claim, opaque
from tests.driver import objects

PLACE = "status.allocation.devices.config[0]"
RESULT = claim.Result("gpus/pair", "node-a", "gpu-0")


def given_config(parameters: dict, *, requests: tuple[str, ...] = (), source: str = "FromClaim") -> claim.Opaque:
    return claim.Opaque(PLACE, source, requests, parameters)


def test_time_slicing_is_decoded() -> None:
    sharing = {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}
    found = opaque.decode(given_config(objects.gpu_config(sharing=sharing)))
    assert isinstance(found, opaque.GpuConfig)
    assert opaque.interval(found.sharing.time_slicing) == 3


def test_mps_is_decoded() -> None:
    mps = {
        "defaultActiveThreadPercentage": 50,
        "defaultPinnedDeviceMemoryLimit": "8Gi",
        "pinnedDeviceMemoryLimits": {"GPU-1": "512Mi"},
    }
    found = opaque.decode(given_config(objects.mig_config(sharing={"strategy": "MPS", "mpsConfig": mps})))
    assert isinstance(found, opaque.MigDeviceConfig)
    assert found.sharing.mps.pinned_device_memory_limits == {"GPU-1": "512Mi"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, r"parameters\.apiVersion: None is not known; use 'gpu.muster.dev/v1alpha1'"),
        ({"apiVersion": "gpu.muster.dev/v2"}, r"parameters\.apiVersion: 'gpu.muster.dev/v2' is not known"),
        (
            {"apiVersion": opaque.API_VERSION, "kind": "Gpu"},
            r"\.kind: 'Gpu' is not known; use one of GpuConfig, MigDev",
        ),
        (objects.gpu_config(sharng={}), r"parameters\.sharng: Extra inputs are not permitted"),
        (objects.gpu_config(sharing={}), r"parameters\.sharing\.strategy: Field required"),
        (
            objects.gpu_config(sharing={"strategy": "mps"}),
            r"\.sharing\.strategy: Input should be 'TimeSlicing' or 'MPS'",
        ),
        (
            objects.gpu_config(sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "long"}}),
            r"\.sharing\.timeSlicingConfig\.interval: Input should be 'Default'",
        ),
        (
            objects.gpu_config(sharing={"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 101}}),
            r"\.mpsConfig\.defaultActiveThreadPercentage: Input should be less than or equal to 100",
        ),
        (
            objects.gpu_config(sharing={"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": "50"}}),
            r"\.mpsConfig\.defaultActiveThreadPercentage: Input should be a valid integer",
        ),
        (
            objects.gpu_config(sharing={"strategy": "MPS", "mpsConfig": {"defaultPinnedDeviceMemoryLimit": "8GB"}}),
            r"\.defaultPinnedDeviceMemoryLimit: Value error, '8GB' is no quantity",
        ),
        (
            objects.gpu_config(sharing={"strategy": "MPS", "mpsConfig": {"pinnedDeviceMemoryLimits": {"GPU-1": "1k"}}}),
            r"\.pinnedDeviceMemoryLimits\.GPU-1: Value error, 1k is less than 1Mi",
        ),
        (
            objects.gpu_config(sharing={"strategy": "MPS", "timeSlicingConfig": {}}),
            r"\.sharing: Value error, timeSlicingConfig is not allowed with strategy MPS",
        ),
        (
            objects.mig_config(sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}),
            r"\.sharing: Value error, timeSlicingConfig is not allowed for MIG devices",
        ),
        (objects.gpu_config(deviceOrder="plan"), r"\.deviceOrder: Input should be 'Plan' or 'Pci'"),
        (objects.gpu_config(padding="x" * 11_000), r"more than 10240 bytes"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(parameters: dict, message: str) -> None:
    with pytest.raises(opaque.OpaqueError, match=message) as raised:
        opaque.decode(given_config(parameters))
    assert str(raised.value).startswith(f"{PLACE}.opaque.parameters")


def decoded(*configs: tuple[dict, tuple[str, ...]]) -> list[tuple[claim.Opaque, opaque.Config]]:
    given = [given_config(parameters, requests=requests) for parameters, requests in configs]
    return [(one, opaque.decode(one)) for one in given]


MPS = objects.gpu_config(sharing={"strategy": "MPS"})
SLICES = objects.gpu_config(sharing={"strategy": "TimeSlicing"})


@pytest.mark.parametrize("requests", [(), ("gpus",), ("gpus/pair",)])
def test_the_last_that_fits_holds(requests: tuple[str, ...]) -> None:
    found = opaque.effective(RESULT, decoded((SLICES, ()), (MPS, requests), (SLICES, ("other",))), opaque.GpuConfig)
    assert found.sharing.strategy == "MPS"


def test_a_config_for_all_is_passed_over_by_other_kinds_of_devices() -> None:
    found = decoded((SLICES, ()), (objects.mig_config(sharing={"strategy": "MPS"}), ()))
    assert opaque.effective(RESULT, found, opaque.GpuConfig).sharing.strategy == "TimeSlicing"
    assert opaque.effective(RESULT, [], opaque.GpuConfig) is None


def test_a_config_that_names_a_request_of_another_kind_is_an_error() -> None:
    found = decoded((objects.mig_config(), ("gpus",)))
    with pytest.raises(
        opaque.OpaqueError, match="MigDeviceConfig is for request 'gpus/pair', whose device gpu-0 takes GpuConfig"
    ):
        opaque.effective(RESULT, found, opaque.GpuConfig)


def test_configs_of_classes_come_before_those_of_the_claim() -> None:
    obj = objects.claim(
        1, "gpu-0", configs=[objects.config(MPS), objects.config(SLICES, source="FromClass"), objects.config(SLICES)]
    )
    reference = claim.reference("default", "claim-1", objects.uid(1))
    found = claim.read(obj, reference, "gpu.muster.dev")
    assert [(c.source, c.parameters["sharing"]["strategy"]) for c in found.configs] == [
        ("FromClass", "TimeSlicing"),
        ("FromClaim", "MPS"),
        ("FromClaim", "TimeSlicing"),
    ]


def test_configs_of_other_drivers_are_passed_over_and_those_without_contents_are_not() -> None:
    reference = claim.reference("default", "claim-1", objects.uid(1))
    other = {"source": "FromClaim", "opaque": {"driver": "dra.net", "parameters": {"mtu": 9000}}}
    assert claim.read(objects.claim(1, "gpu-0", configs=[other]), reference, "gpu.muster.dev").configs == ()
    with pytest.raises(claim.ClaimError, match=r"config\[0\]\.opaque is missing"):
        claim.read(objects.claim(1, "gpu-0", configs=[{"source": "FromClaim"}]), reference, "gpu.muster.dev")
