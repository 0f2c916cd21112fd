"""Play the demo: a gang on exact devices, what the driver makes of them, a refusal, a wait, and the log decided again."""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from dra_driver import claim
from scheduler.record import replay
from tests.demo import jobset, stage
from tests.kube import live

RACK = "muster.dev/rack"


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def act(number: int, words: str) -> None:
    say("", f"{number}. {words}", "-" * (len(words) + 3))


async def main() -> int:
    """Play all acts; exit code 0 when everything came out as told."""
    with tempfile.TemporaryDirectory(prefix="muster-demo-") as folder:
        async with stage.stage(Path(folder)) as found:
            said = "two of them with the DRA driver on stand-in hardware" if found.drivers else "all simulated"
            say(
                f"A cluster of 8 HGX H100 nodes in two racks, {said}; kube-scheduler's part is played by the API server."
            )
            if found.why_no_driver:
                say(f"(The driver's stand-in hardware can't be used here: {found.why_no_driver})")
            await gang(found)
            await devices(found)
            await refusal(found)
            await waiting(found)
        return again(Path(folder) / "audit")


async def gang(found: stage.Stage) -> None:
    """Place four pods with eight GPUs each in one rack."""
    act(1, "A JobSet of 4 pods x 8 GPUs that asks for one rack")
    names = await jobset.create(found.home, "train", 4, "eight", required_level=RACK)
    placed = await found.home.bound(*names)
    claims = await found.home.claims()
    for rank, name in enumerate(names):
        own = [device.partition("/")[2] for device in claims[name]]
        say(f"   rank {rank}  {name}  {placed[name]}  {' '.join(own)}")
    record = await found.home.placement("jobset-train")
    plan = (record or {})["spec"]["plan"]
    say(
        f"   GangPlacement jobset-train: {plan['level']} {plan['domain']}, {plan['bandwidthMBs'] / 1000:.0f} GB/s predicted"
    )


async def devices(found: stage.Stage) -> None:
    """Show what a container gets of its claim."""
    if not found.drivers:
        return
    act(2, "What the driver hands to the containers, in the plan's order")
    for name, pod in sorted((await found.home.pods()).items()):
        one = found.drivers.get(pod["spec"].get("nodeName", ""))
        if one is None:
            continue
        made = pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"]
        item = await found.home.api.get(f"/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/{made}")
        ids = await stage.prepared(one, claim.reference("default", made, item["metadata"]["uid"]))
        say(f"   {name}: {len(ids)} CDI devices, {ids[0]} ...")


async def told(found: stage.Stage, gang_name: str, phase: str) -> dict[str, Any]:
    async def ask() -> Any:
        record = await found.home.placement(gang_name)
        return record if record and (record.get("status") or {}).get("phase") == phase else None

    record: dict[str, Any] = await found.home.until(ask)
    return record


async def refusal(found: stage.Stage) -> None:
    """Ask for what no rack can hold."""
    act(3, "A gang of 5 x 8 GPUs in one rack: it can never run here, and is told so")
    await found.home.create(*(live.pod(f"huge-{i}", "huge", 5, required_level=RACK) for i in range(5)))
    record = await told(found, "gang-huge", "Rejected")
    say(f"   {record['status']['message']}")


async def waiting(found: stage.Stage) -> None:
    """Ask for more than is free, then make room."""
    act(4, "A gang of 6 x 8 GPUs while 4 nodes are free: it waits whole, and starts when the first one ends")
    await found.home.create(*(live.pod(f"next-{i}", "next", 6) for i in range(6)))
    record = await told(found, "gang-next", "Waiting")
    say(f"   {record['status']['message']}")
    for rank in range(4):
        await found.home.api.delete(f"/api/v1/namespaces/default/pods/train-workers-0-{rank}", grace_s=0)
    placed = await found.home.bound(*(f"next-{i}" for i in range(6)))
    say(f"   train is gone: next runs on {len(set(placed.values()))} nodes")


def again(audit: Path) -> int:
    """Decide again from the log."""
    act(5, "The decision log, decided again by the simulator's copy of the core")
    done = replay.replay(audit)
    same = "every byte is the same" if done.difference is None else f"line {done.difference.number} differs"
    say(f"   {done.events} events, {done.starts} starts, {done.refusals} refusals: {same}")
    return 0 if done.difference is None and done.starts == 2 else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
