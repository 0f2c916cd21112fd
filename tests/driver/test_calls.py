"""Every call of the kubelet is in the log with its number, and each service can be turned off."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc
import pydantic
import pytest
import structlog

from dra_driver import config, healthstream, instance, sockets
from proto.dra.v1 import dra_v1_pb2 as v1
from tests.driver import conftest, host, objects

PREPARE, GET_INFO = (
    "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
    "/pluginregistration.Registration/GetInfo",
)


class Healthy:
    def current(self) -> list[healthstream.DeviceHealth]:
        return []


@pytest.fixture
def records() -> Any:
    """What is logged, with its context, at the level debug."""
    entries: list[dict[str, Any]] = []

    def keep(logger: object, name: str, record: Any) -> Any:
        entries.append({**record, "level": name})
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, keep],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        cache_logger_on_first_use=False,
    )
    yield entries
    structlog.configure(**before)


async def test_calls_are_logged_with_number_method_duration_and_payload(
    make_node: Callable[..., conftest.Node], records: list[dict[str, Any]]
) -> None:
    node = make_node()
    async with node.driver(health=Healthy()), node.kubelet() as calls:
        good, bad = (node.claims.add(objects.claim(number, name)) for number, name in ((1, "gpu-0"), (2, "gpu-77")))
        await calls.prepare(good, bad)
        stub = next(iter(calls.plugins.values()))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.channel.unary_unary("/no.Such/Method")(b"")
    ended = [one for one in records if one["event"] == "rpc ended"]
    assert [one["rpc"].rpartition("/")[2] for one in ended] == [
        "GetInfo",
        "NotifyRegistrationStatus",
        "NodePrepareResources",
    ]
    numbers = [one["call"] for one in ended]
    assert numbers == sorted(set(numbers)) and all(
        one["seconds"] >= 0 and one["outcome"] == "answered" for one in ended
    )
    (failed,) = [one for one in records if one["event"] == "claim failed"]
    assert failed["call"] == numbers[-1] and failed["rpc"] == ended[-1]["rpc"]
    (request,) = [one for one in records if one["event"] == "request" and one["call"] == numbers[-1]]
    assert request["level"] == "debug" and good.uid in str(request["payload"])
    (response,) = [one for one in records if one["event"] == "response" and one["call"] == numbers[-1]]
    assert "gpu-0" in str(response["payload"]) and "does not exist" in str(response["payload"])
    assert "/no.Such/Method" in [one["rpc"] for one in records if "no method of ours" in one["event"]]


async def test_the_health_stream_is_logged(
    make_node: Callable[..., conftest.Node], records: list[dict[str, Any]]
) -> None:
    node = make_node()
    async with node.driver(health=Healthy()), node.kubelet() as calls:
        await calls.watch_health(1)
    began, ended = ([one for one in records if one["event"] == f"stream {what}"] for what in ("began", "ended"))
    assert len(began) == len(ended) == 1 and began[0]["call"] == ended[0]["call"] and ended[0]["messages"] >= 1


@pytest.mark.parametrize("versions", [("v1",), ("v1beta1",)])
async def test_a_version_that_is_turned_off_is_neither_told_nor_served(
    make_node: Callable[..., conftest.Node], versions: tuple[str, ...]
) -> None:
    node = make_node()
    parts = host.parts(node.root, node.machine, node.claims, hardware=node.hardware)
    own = sockets.of_instance(host.DRIVER, node.registry, node.plugins)
    running = instance.Instance(parts, own, node.boot_id, versions=versions)
    await running.start()
    try:
        assert running.registration.versions == tuple(f"{one}.DRAPlugin" for one in versions)
        async with node.kubelet() as calls:
            wanted = node.claims.add(objects.claim(1, "gpu-0"))
            assert (await calls.prepare(wanted))[wanted.uid].error == ""
        if "v1" not in versions:
            async with grpc.aio.insecure_channel(f"unix:{own.plugin}") as channel:
                call = channel.unary_unary(PREPARE, request_serializer=v1.NodePrepareResourcesRequest.SerializeToString)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(v1.NodePrepareResourcesRequest())
                assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        await running.stop()


def test_settings_turn_services_off() -> None:
    assert config.Config(node_name="a").versions == ("v1", "v1beta1")
    assert config.Config(node_name="a", v1=False).versions == ("v1beta1",)
    assert config.Config(node_name="a", health=False).health is False
    with pytest.raises(pydantic.ValidationError, match="neither v1 nor v1beta1"):
        config.Config(node_name="a", v1=False, v1beta1=False)
