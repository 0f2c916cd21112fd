"""The smallest DRA plugin that a kubelet accepts: it gives each device of a claim one environment variable through CDI.

For tests of the testbed itself; the driver is another matter.
"""

from __future__ import annotations

import json
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from proto.dra.v1 import dra_v1_pb2, dra_v1_pb2_grpc
from proto.pluginregistration import pluginregistration_pb2, pluginregistration_pb2_grpc


class Plugin:
    """A running plugin of one node; `devices_of` tells what was prepared, by claim uid."""

    def __init__(self, driver: str, root: Path, cdi: Path, claims: Any) -> None:
        """Serve `driver` below a kubelet's `root`; `claims(namespace, name)` returns a claim object."""
        self.driver, self.cdi, self.claims = driver, cdi, claims
        self.registered, self.devices_of = False, dict[str, list[str]]()
        self.data = root / "plugins" / driver
        self.socket = self.data / "dra.sock"
        self.registration = root / "plugins_registry" / f"{driver}-reg.sock"
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        self.registrar = grpc.server(futures.ThreadPoolExecutor(2))
        dra_v1_pb2_grpc.add_DRAPluginServicer_to_server(self, self.server)
        pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(self, self.registrar)

    def __enter__(self) -> Self:
        for path in (self.socket, self.registration):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        self.server.add_insecure_port(f"unix:{self.socket}")
        self.server.start()
        self.registrar.add_insecure_port(f"unix:{self.registration}")  # the kubelet dials as soon as it sees this file
        self.registrar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.registrar.stop(1).wait()
        self.server.stop(1).wait()
        for path in (self.registration, self.socket, *self.cdi.glob("testbed-*.json")):
            path.unlink(missing_ok=True)

    def GetInfo(self, request: Any, context: Any) -> Any:
        return pluginregistration_pb2.PluginInfo(
            type="DRAPlugin", name=self.driver, endpoint=str(self.socket), supported_versions=["v1.DRAPlugin"]
        )

    def NotifyRegistrationStatus(self, request: Any, context: Any) -> Any:
        self.registered = request.plugin_registered
        return pluginregistration_pb2.RegistrationStatusResponse()

    def NodePrepareResources(self, request: Any, context: Any) -> Any:
        answer = dra_v1_pb2.NodePrepareResourcesResponse()
        for wanted in request.claims:
            results = self.claims(wanted.namespace, wanted.name)["status"]["allocation"]["devices"]["results"]
            mine = [one for one in results if one["driver"] == self.driver]
            self.devices_of[wanted.uid] = [one["device"] for one in mine]
            self._write_cdi(wanted.uid)
            for one in mine:
                answer.claims[wanted.uid].devices.add(
                    request_names=[one["request"].split("/")[0]],
                    pool_name=one["pool"],
                    device_name=one["device"],
                    cdi_device_ids=[f"testbed.muster.dev/device=claim-{wanted.uid}"],
                )
        return answer

    def NodeUnprepareResources(self, request: Any, context: Any) -> Any:
        answer = dra_v1_pb2.NodeUnprepareResourcesResponse()
        for wanted in request.claims:
            (self.cdi / f"testbed-{wanted.uid}.json").unlink(missing_ok=True)
            self.devices_of.pop(wanted.uid, None)
            answer.claims[wanted.uid].SetInParent()
        return answer

    def _write_cdi(self, uid: str) -> None:
        edits = {"env": [f"TESTBED_DEVICES={','.join(self.devices_of[uid])}"]}
        spec = {
            "cdiVersion": "0.6.0",
            "kind": "testbed.muster.dev/device",
            "devices": [{"name": f"claim-{uid}", "containerEdits": edits}],
        }
        (self.cdi / f"testbed-{uid}.json").write_text(json.dumps(spec))
