"""The file that remembers what is prepared."""

import asyncio
import contextlib
import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dra_driver import checkpoint, prepared
from dra_driver.claim import ClaimUid
from tests.driver import objects

PARTITION = prepared.Partition("1g.10gb", 19, 6, 1)


def entry(number: int) -> prepared.Claim:
    device = prepared.Device(
        prepared.Kind.MIG, "gpus", "node-a", "gpu-7-mig-1g10gb-19-6", "GPU-7", "MIG-1", partition=PARTITION
    )
    uid = ClaimUid(objects.uid(number))
    mps = prepared.Mps(uid, 50, 1024, (("GPU-7", 512),))
    return prepared.Claim("default", f"claim-{number}", uid, 1, "", prepared.Phase.STARTED, (device,), mps)


def adding(number: int) -> checkpoint.Change:
    return lambda found: found.having(entry(number))


def test_what_is_written_is_read() -> None:
    written = prepared.Checkpoint("boot", True, {e.uid: e for e in (entry(1), entry(2))})
    assert checkpoint.decode(checkpoint.encode(written), Path("x")) == written


async def test_another_instance_sees_each_change(tmp_path: Path) -> None:
    mine, theirs = checkpoint.Store(tmp_path), checkpoint.Store(tmp_path)
    await mine.change(adding(1))
    assert set(theirs.read().claims) == {objects.uid(1)}
    await theirs.change(adding(2))
    assert set(mine.read().claims) == {objects.uid(1), objects.uid(2)}
    await mine.change(lambda found: found.lacking(ClaimUid(objects.uid(1))))
    assert set(theirs.read().claims) == {objects.uid(2)}


async def test_two_instances_that_write_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    stores = [checkpoint.Store(tmp_path) for _ in range(2)]
    await asyncio.gather(*(stores[i % 2].change(adding(i)) for i in range(40)))
    assert len(stores[0].read().claims) == 40


async def test_changes_of_one_moment_share_a_write(tmp_path: Path) -> None:
    store = checkpoint.Store(tmp_path)
    await asyncio.gather(*(store.change(adding(i)) for i in range(32)))
    assert len(store.read().claims) == 32
    assert store.writes <= 2


async def test_a_change_that_is_refused_leaves_the_others_alone(tmp_path: Path) -> None:
    def refuse(found: prepared.Checkpoint) -> prepared.Checkpoint:
        raise ValueError("held")

    store = checkpoint.Store(tmp_path)
    results = await asyncio.gather(
        store.change(adding(1)), store.change(refuse), store.change(adding(2)), return_exceptions=True
    )
    assert str(results[1]) == "held"
    assert set(store.read().claims) == {objects.uid(1), objects.uid(2)}


async def test_nothing_is_written_when_nothing_changes(tmp_path: Path) -> None:
    store = checkpoint.Store(tmp_path)
    await store.change(adding(1))
    await store.change(adding(1))
    assert store.writes == 1


@given(st.data())
def test_damage_is_found(data: st.DataObject) -> None:
    """One changed byte, wherever it is, is an error or changes nothing that is read."""
    good = checkpoint.encode(prepared.Checkpoint("boot", claims={entry(1).uid: entry(1)}))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(checkpoint.CheckpointError):
        assert checkpoint.decode(bytes(bad), Path("x")) == checkpoint.decode(good, Path("x"))


@pytest.mark.parametrize("cut", [0, 1, 40, 200])
def test_a_cut_file_is_found(cut: int) -> None:
    good = checkpoint.encode(prepared.Checkpoint("boot", claims={entry(1).uid: entry(1)}))
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.decode(good[:cut], Path("checkpoint.json"))


def test_another_version_is_named() -> None:
    good = checkpoint.encode(prepared.Checkpoint())
    with pytest.raises(checkpoint.CheckpointError, match="version 9, this driver reads version 1"):
        checkpoint.decode(good.replace(b'"version":1', b'"version":9'), Path("checkpoint.json"))


async def test_a_full_disk_fails_the_change_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = checkpoint.Store(tmp_path)
    await store.change(adding(1))

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            await store.change(adding(2))
    assert set(checkpoint.Store(tmp_path).read().claims) == {objects.uid(1)}
    assert list(tmp_path.glob(".*.tmp")) == []
    await store.change(adding(2))
    assert len(store.read().claims) == 2


async def test_a_file_that_cannot_be_read_is_kept_under_another_name(tmp_path: Path) -> None:
    store = checkpoint.Store(tmp_path)
    store.path.write_bytes(b"{")
    with pytest.raises(checkpoint.CheckpointError):
        store.read()
    kept = store.set_aside(prepared.Checkpoint())
    assert kept is not None and kept.name.startswith("checkpoint.json.corrupt-")
    assert kept.read_bytes() == b"{"
    assert store.read() == prepared.Checkpoint()


async def test_a_file_that_is_gone_is_no_empty_checkpoint(tmp_path: Path) -> None:
    store = checkpoint.Store(tmp_path)
    await store.change(adding(1))
    store.path.unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.json: the file is gone"):
        store.read()
    with pytest.raises(checkpoint.CheckpointError, match="the file is gone"):
        await store.change(adding(2))
    assert not store.path.exists()
    assert store.set_aside(prepared.Checkpoint(rebuilding=True)) is None
    assert store.read() == prepared.Checkpoint(rebuilding=True)


async def test_what_another_instance_put_in_its_place_is_not_set_aside(tmp_path: Path) -> None:
    slow, fast = checkpoint.Store(tmp_path), checkpoint.Store(tmp_path)
    slow.path.write_bytes(b"{")
    assert fast.set_aside(prepared.Checkpoint()) is not None
    await fast.change(adding(1))
    assert slow.set_aside(prepared.Checkpoint()) is None
    assert set(slow.read().claims) == {objects.uid(1)}


def test_what_a_crash_left_half_written_is_removed_once_it_is_old(tmp_path: Path) -> None:
    store = checkpoint.Store(tmp_path)
    old, young = (tmp_path / f".checkpoint.json.{name}.tmp" for name in ("0a", "0b"))
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    store.remove_abandoned()
    assert list(tmp_path.iterdir()) == [young]


async def test_the_file_is_for_the_driver_alone_and_readable_for_people(tmp_path: Path) -> None:
    store = checkpoint.Store(tmp_path)
    await store.change(adding(1))
    assert store.path.stat().st_mode & 0o777 == 0o600
    shown = json.loads(checkpoint.show(store.path))
    assert shown["contents"]["claims"][objects.uid(1)]["name"] == "claim-1"
