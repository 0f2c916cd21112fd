"""CDI files: valid by the specification, re-ensured, and with the devices in the order of the allocation."""

import json
import shutil

import jsonschema
import pytest

from dra_driver import checkpoint
from tests.driver import cdi_schema, kubelet, objects

TIME_SLICES = objects.gpu_config(sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}})
MPS = objects.gpu_config(sharing={"strategy": "MPS", "mpsConfig": {"defaultPinnedDeviceMemoryLimit": "8Gi"}})


async def spec_of(node, *devices, configs=(), annotations=None):
    """Prepare a claim and return its CDI file, which is valid and has all devices of the answer."""
    async with node.driver(), node.kubelet() as calls:
        wanted = node.claims.add(objects.claim(1, *devices, configs=configs, annotations=annotations or {}))
        answer = (await calls.prepare(wanted))[wanted.uid]
        assert answer.error == ""
        (path,) = node.cdi.glob("*")
        spec = json.loads(path.read_text())
        jsonschema.validate(spec, cdi_schema.SPEC)
        names = [device["name"] for device in spec["devices"]]
        assert len(set(names)) == len(names)
        assert {f"{spec['kind']}={name}" for name in names} == {i for d in answer.devices for i in d.cdi_device_ids}
        node.log = (node.root / "smi.log").read_text() if (node.root / "smi.log").exists() else ""
        node.mps = (node.root / "mps.log").read_text() if (node.root / "mps.log").exists() else ""
        metadata = list((node.plugins / "metadata").rglob("metadata.json"))
        node.metadata = {path.parent.name: json.loads(path.read_text()) for path in metadata}
        assert (await calls.unprepare(wanted))[wanted.uid] == ""
        assert not (node.plugins / "metadata" / wanted.uid).exists()
    return {device["name"].split("444444444444", 1)[1]: device["containerEdits"] for device in spec["devices"]}, spec


async def test_whole_gpus_have_their_nodes_and_the_order_of_the_plan(make_node):
    node = make_node()
    devices, spec = await spec_of(node, "gpu-3", "gpu-0")
    assert [n["path"] for n in devices["-gpu-3"]["deviceNodes"]] == ["/dev/nvidia3"]
    assert devices["-gpu-3"]["deviceNodes"][0]["hostPath"] == str(node.root / "dev/nvidia3")
    uuids = [node.machine.gpus[i].uuid for i in (3, 0)]
    assert f"CUDA_VISIBLE_DEVICES={','.join(uuids)}" in devices["_gpus"]["env"]
    common = spec["containerEdits"]
    assert [n["path"] for n in common["deviceNodes"]] == ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]
    assert "/usr/lib/x86_64-linux-gnu/libcuda.so.580.126.20" in [m["containerPath"] for m in common["mounts"]]
    assert common["env"] == ["NVIDIA_VISIBLE_DEVICES=void"]


async def test_a_mig_device_has_its_capabilities(make_node):
    node = make_node(mig_gpus=(7,))
    devices, _ = await spec_of(node, "gpu-7-mig-2g20gb-14-4")
    nodes = devices["-gpu-7-mig-2g20gb-14-4"]["deviceNodes"]
    assert [(n["path"], n.get("major"), n.get("minor")) for n in nodes] == [
        ("/dev/nvidia7", None, None),
        ("/dev/nvidia-caps/nvidia-cap710", 238, 710),
        ("/dev/nvidia-caps/nvidia-cap711", 238, 711),
    ]
    assert any(text.startswith("CUDA_VISIBLE_DEVICES=MIG-") for text in devices["_gpus"]["env"])


async def test_containers_know_their_place_in_the_gang(make_node):
    told = {"muster.dev/gang": "gang-train", "muster.dev/planned-rank": "3", "muster.dev/planned-size": "8"}
    _, spec = await spec_of(make_node(), "gpu-0", annotations=told)
    assert spec["containerEdits"]["env"][:3] == ["MUSTER_GANG=gang-train", "MUSTER_RANK=3", "MUSTER_GANG_SIZE=8"]
    _, spec = await spec_of(make_node(), "gpu-0", annotations={"muster.dev/planned-rank": "3"})
    assert not any("MUSTER_RANK" in one for one in spec["containerEdits"]["env"]), "of a lone pod nothing is told"


@pytest.mark.parametrize(("key", "value"), [("gang", "a b"), ("planned-rank", "-1"), ("planned-size", "9" * 7)])
async def test_a_place_that_is_none_is_refused(make_node, key, value):
    told = {"muster.dev/gang": "g", "muster.dev/planned-rank": "0", "muster.dev/planned-size": "1"}
    node = make_node()
    async with node.driver(), node.kubelet() as calls:
        wanted = node.claims.add(objects.claim(1, "gpu-0", annotations=told | {f"muster.dev/{key}": value}))
        error = (await calls.prepare(wanted))[wanted.uid].error
        assert "metadata.annotations" in error and repr(value) in error and "delete the pod" in error


async def test_two_requests_bring_no_order_and_each_its_metadata(make_node):
    node = make_node()
    rows = [objects.result("gpu-0", "prefill/big"), objects.result("gpu-1", "decode")]
    devices, _ = await spec_of(node, *rows, annotations={"resource.kubernetes.io/pod-claim-name": "devices"})
    assert not any("CUDA_VISIBLE" in text for edits in devices.values() for text in edits.get("env", ()))
    (mount,) = devices["_prefill"]["mounts"]
    folder = "/var/run/kubernetes.io/dra-device-attributes/resourceclaimtemplates/devices"
    assert mount["containerPath"] == f"{folder}/prefill/gpu.muster.dev-metadata.json"
    assert "ro" in mount["options"]
    said = node.metadata["prefill"]
    assert (said["kind"], said["podClaimName"], said["metadata"]["generation"]) == ("DeviceMetadata", "devices", 1)
    (request,) = said["requests"]
    assert request["name"] == "prefill/big"
    assert request["devices"][0]["attributes"]["uuid"] == {"string": node.machine.gpus[0].uuid}


async def test_time_slices_are_set_and_given_back(make_node):
    node = make_node()
    uuid = node.machine.gpus[0].uuid
    await spec_of(node, "gpu-0", configs=[objects.config(TIME_SLICES)])
    many = f"-i {uuid} -c DEFAULT"
    assert node.log.splitlines() == [many, f"compute-policy -i {uuid} --set-timeslice=3"]
    said = (node.root / "smi.log").read_text().splitlines()
    assert said[2:] == [many, f"compute-policy -i {uuid} --set-timeslice=0"]


async def test_shares_of_one_gpu_reach_one_mps_daemon_within_their_part(make_node):
    node = make_node()
    devices, _ = await spec_of(node, objects.share("gpu-0", "a", 250), configs=[objects.config(MPS)])
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25" in devices["_gpus"]["env"]
    assert "/tmp/nvidia-mps" in [m["containerPath"] for m in devices["_gpus"]["mounts"]]
    assert "set_default_device_pinned_mem_limit 0 8192M" in node.mps
    assert (node.root / "mps.log").read_text().splitlines()[-1] == "quit"
    uuid = node.machine.gpus[0].uuid
    assert (node.root / "mps.started").read_text() == f"{uuid}\n"
    said = (node.root / "smi.log").read_text().splitlines()
    assert said == [f"-i {uuid} -c EXCLUSIVE_PROCESS", f"-i {uuid} -c DEFAULT"]


async def test_an_mps_daemon_that_never_started_leaves_its_gpu_to_all(make_node):
    """The mode is set and the daemon fails, or the driver ends between the two: an unprepare or the sweep sets it back."""
    node = make_node()
    uuid = node.machine.gpus[0].uuid
    (node.root / "mps.broken").touch()
    async with node.driver() as driver, node.kubelet() as calls:
        wanted = node.claims.add(objects.claim(1, objects.share("gpu-0", "a", 250), configs=[objects.config(MPS)]))
        assert "nvidia-cuda-mps-control" in (await calls.prepare(wanted))[wanted.uid].error
        modes = (node.root / "smi.log").read_text().splitlines()
        assert modes[-1] == f"-i {uuid} -c EXCLUSIVE_PROCESS"
        folder = driver.state.parts.daemons.folder
        (folder / "of-nobody").mkdir()
        (folder / "of-nobody/gpus").write_text(node.machine.gpus[3].uuid)
        await driver.recovery.sweep()
        assert not (folder / "of-nobody").exists()
        assert f"-i {node.machine.gpus[3].uuid} -c DEFAULT" in (node.root / "smi.log").read_text()
        assert await calls.unprepare(wanted) == {wanted.uid: ""}
        assert (node.root / "smi.log").read_text().splitlines()[-1] == f"-i {uuid} -c DEFAULT"
        assert list(folder.iterdir()) == []


async def test_a_program_that_fails_is_named_and_a_later_call_succeeds(make_node):
    node = make_node()
    (node.root / "smi.broken").touch()
    async with node.driver(), node.kubelet() as calls:
        wanted = node.claims.add(objects.claim(1, "gpu-0", configs=[objects.config(TIME_SLICES)]))
        assert "Unable to set the time slice" in (await calls.prepare(wanted))[wanted.uid].error
        (node.root / "smi.broken").unlink()
        assert (await calls.prepare(wanted))[wanted.uid].error == ""


async def test_shares_add_up_to_one_gpu_and_are_shared_in_one_way(make_node):
    node = make_node()
    async with node.driver(), node.kubelet() as calls:
        rows = [objects.share("gpu-0", str(i), milli) for i, milli in enumerate((600, 500, 300))]
        first, second = (node.claims.add(objects.claim(i, rows[i])) for i in (0, 1))
        third = node.claims.add(objects.claim(2, rows[2], configs=[objects.config(TIME_SLICES)]))
        assert (await calls.prepare(first))[first.uid].error == ""
        assert "500 thousandths asked, but other claims hold 600" in (await calls.prepare(second))[second.uid].error
        assert "whose sharing configuration differs" in (await calls.prepare(third))[third.uid].error


async def test_administrators_look_at_what_others_hold(make_node):
    node = make_node()
    async with node.driver(), node.kubelet() as calls:
        user = node.claims.add(objects.claim(1, "gpu-0"))
        admin = node.claims.add(objects.claim(2, objects.result("gpu-0", adminAccess=True)))
        rival = node.claims.add(objects.claim(3, "gpu-0"))
        errors = {uid: a.error for uid, a in (await calls.prepare(user)).items()}
        errors |= {uid: a.error for uid, a in (await calls.prepare(admin, rival)).items()}
        assert errors[user.uid] == errors[admin.uid] == ""
        assert "is held by claim default/claim-1" in errors[rival.uid]
        assert "DRA_ADMIN_ACCESS=true" in (node.cdi / f"gpu.muster.dev-claim_{admin.uid}.json").read_text()


async def test_files_are_there_again_after_a_deletion_and_after_a_boot(make_node):
    node = make_node(mig_gpus=(7,))
    async with node.driver(), node.kubelet() as calls:
        wanted = node.claims.add(objects.claim(1, "gpu-7-mig-1g10gb-19-6"))
        await calls.prepare(wanted)
        (path,) = node.cdi.glob("*")
        path.unlink()
        assert (await calls.prepare(wanted))[wanted.uid].error == ""
        assert path.exists()
    shutil.rmtree(node.cdi)
    node.hardware.reboot()
    (node.root / "proc/sys/kernel/random/boot_id").write_text("another\n")
    async with node.driver() as driver:
        assert path.exists()
        assert driver.state.parts.store.read().boot_id == "another"
        assert len(node.hardware._all()) == 1


async def test_a_corrupt_checkpoint_is_set_aside_with_an_event_and_rebuilt(make_node):
    node = make_node()
    async with node.driver(), node.kubelet() as calls:
        wanted = node.claims.add(objects.claim(1, "gpu-0"))
        await calls.prepare(wanted)
    (node.plugins / "checkpoint.json").write_bytes(b"\x00")
    async with node.driver() as driver, node.kubelet() as calls:
        assert node.events[0][0] == "CheckpointCorrupt"
        assert len(list(node.plugins.glob("checkpoint.json.corrupt-*"))) == 1
        assert set(driver.state.parts.store.read().claims) == {wanted.uid}
        rival = node.claims.add(objects.claim(2, "gpu-0"))
        assert "is held by" in (await calls.prepare(rival))[rival.uid].error


async def test_an_unwritable_folder_is_an_error_of_the_claim(make_node, monkeypatch):
    node = make_node()
    real = checkpoint.replace_file

    def refused(path, *args, **more):
        if path.parent == node.cdi:
            raise PermissionError(13, "Permission denied", str(path))
        real(path, *args, **more)

    async with node.driver(), node.kubelet() as calls:
        wanted = node.claims.add(objects.claim(1, "gpu-0"))
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "replace_file", refused)
            assert "Permission denied" in (await calls.prepare(wanted))[wanted.uid].error
        assert (await calls.prepare(wanted))[wanted.uid].error == ""


@pytest.mark.parametrize("dynamic", [True, False])
async def test_static_mig_is_used_and_left_alone(make_node, dynamic):
    node = make_node(mig_gpus=(7,), dynamic_mig=dynamic)
    async with node.driver(), kubelet.Kubelet(node.registry) as calls:
        await calls.scan()
        wanted = node.claims.add(objects.claim(1, "gpu-7-mig-1g10gb-19-6"))
        if not dynamic:
            assert "dynamic MIG is off; create it" in (await calls.prepare(wanted))[wanted.uid].error
            made = node.hardware.create_gpu_instance(node.machine.gpus[7].uuid, 19, 6)
            node.hardware.create_compute_instance(made)
        assert (await calls.prepare(wanted))[wanted.uid].error == ""
        await calls.unprepare(wanted)
        assert len(node.hardware._all()) == (0 if dynamic else 1)
