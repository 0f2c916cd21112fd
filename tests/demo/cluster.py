"""The same on a real cluster: control plane, kubelets, containers and JobSet's controller are real, the GPUs are not.

`make cluster-demo` plays it: a JobSet on exact devices of two nodes, what its containers see, what kubectl tells of it, and
a JobSet that can never run.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scheduler.model import machines, names
from tests.driver import live as driver
from tests.kube import live
from tests.live import site as sites
from tests.live import work
from tests.testbed import cluster as clusters
from tests.testbed import doctor, objects, process
from tests.testbed.fleet import presets

TEAM, PODS = "research", 4
WAIT_S = 60.0
RANK = {"fieldRef": {"fieldPath": f"metadata.annotations['{names.PLANNED_RANK}']"}}


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def act(number: int, words: str) -> None:
    say("", f"{number}. {words}", "-" * (len(words) + 3))


def main() -> int:
    """Play all acts; exit code 0 when everything came out as told, 1 where this machine has no testbed."""
    if lacking := doctor.lacking():
        say("No real cluster can run here:", *(f"  {one.what}: {one.found}; {one.remedy}" for one in lacking))
        return 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="muster-demo-") as folder, stage(Path(folder)) as site:
        say(
            f"A control plane, two nodes with the driver above HGX H100, JobSet and Muster: {time.monotonic() - began:.0f} s"
        )
        planned = jobset(site)
        containers(site, planned)
        told(site)
        refused(site)
    return 0


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[sites.Site]:
    """Start everything, with a managed namespace; nothing is left at the end."""
    with clusters.Cluster(clusters.Options(real_nodes=2), tell=lambda words: say(f"  {words}")).start() as home:
        drivers = []
        for name, node in home.nodes.items():
            drivers.append(driver.Driver(home, node, machines.build("hgx-h100", name), folder / name))
            drivers[-1].start()
            home.kubectl("label", "node", name, f"{work.RACK}=rack-a", "--overwrite")
        site = sites.of(home, presets.Fleet("none", ()))
        site.start(("jobset",))
        home.kubectl("create", "namespace", TEAM)
        home.kubectl("label", "namespace", TEAM, f"{names.MANAGED}=true")
        apply(site, *(live.template(name, count) for count, name in ((4, "four"), (8, "eight"))))
        try:
            yield site
        finally:
            for one in drivers:
                one.close()


def apply(site: sites.Site, *items: dict[str, Any]) -> None:
    text = "\n---\n".join(json.dumps(one) for one in items)
    site.home.kubectl("-n", TEAM, "apply", "-f", "-", stdin=text)


def jobset(site: sites.Site) -> list[dict[str, Any]]:
    """Apply it, and return its pods as they are planned; the record goes when the JobSet has ended."""
    act(1, f"A JobSet of {PODS} pods with four GPUs each, which has to be in one rack")
    pod = objects.pod("w", ["ring"], template="four")["spec"]
    env = pod["containers"][0]["env"]
    env += [{"name": "RING_RANK", "valueFrom": RANK}, {"name": "RING_SIZE", "value": str(PODS)}]
    env += [{"name": "RING_PORT", "value": "29650"}]
    told = {"metadata": {"annotations": work.IN_ONE_RACK}, "spec": pod}
    of = {"parallelism": PODS, "completions": PODS, "completionMode": "Indexed", "template": told}
    apply(site, work.jobset("train", {"workers": of}, notes=work.IN_ONE_RACK))
    record = ("-n", TEAM, "get", "gangplacement", "jobset-train", "--ignore-not-found")
    wait("the JobSet is planned", lambda: "plan" in site.home.kubectl(*record, "-o", "jsonpath={.spec}"))
    planned: list[dict[str, Any]] = json.loads(site.home.kubectl(*record, "-o", "json"))["spec"]["plan"]["pods"]
    show(site.home.kubectl(*record))
    for one in planned:
        devices = " ".join(row["device"] for claim in one["claims"] for row in claim["devices"])
        say(f"   rank {one['rank']}  {one['name']}  {one['node']}  {devices}")
    wait("the JobSet has ended", lambda: len(ended(site)) == PODS)
    return planned


def ended(site: sites.Site) -> list[str]:
    fields = "jsonpath={range .items[?(@.status.phase=='Succeeded')]}{.metadata.name} {end}"
    return site.home.kubectl("-n", TEAM, "get", "pods", "-o", fields).split()


def containers(site: sites.Site, planned: list[dict[str, Any]]) -> None:
    act(2, "What the containers saw: their devices in the plan's order, their rank, and a token around the ring")
    for one in planned:
        lines = site.home.nodes[one["node"]].pod_log(TEAM, one["name"]).splitlines()
        env = json.loads(lines[0])["env"]
        say(f"   MUSTER_RANK={env['MUSTER_RANK']} MUSTER_DEVICES_GPUS={env['MUSTER_DEVICES_GPUS'][:60]}...")
        if one["rank"] == 0:
            say(f"   the token went {' '.join(json.loads(lines[1])['ring'])}")


def told(site: sites.Site) -> None:
    act(3, "What its Events tell")
    reasons = "custom-columns=REASON:.reason,OBJECT:.involvedObject.name,MESSAGE:.message"
    show(site.home.kubectl("-n", TEAM, "get", "events", "--field-selector=reason=GangPlanned", "-o", reasons))


def refused(site: sites.Site) -> None:
    act(4, "A JobSet of three pods with eight GPUs each in one rack of two machines")
    apply(site, work.jobset("large", {"workers": work.job_spec(3, notes=work.IN_ONE_RACK)}, notes=work.IN_ONE_RACK))
    phase = ("-n", TEAM, "get", "gangplacement", "jobset-large", "--ignore-not-found", "-o", "jsonpath={.status.phase}")
    wait("it is refused", lambda: site.home.kubectl(*phase) == "Rejected")
    show(plugin(site, "explain", "gang", "jobset-large", "-n", TEAM))


def plugin(site: sites.Site, *words: str) -> str:
    """Run `kubectl muster`."""
    argv = [sys.executable, "-m", "scheduler.kubectl.cli", *words, "--kubeconfig", str(site.home.kubeconfig)]
    argv += [f"--server=https://127.0.0.1:{site.webhook_port}", f"--ca={site.home.authority.ca}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise process.Failed(f"kubectl muster {' '.join(words)}: {done.stderr}")
    return done.stdout


def show(text: str) -> None:
    say(*(f"   {line}"[:200] for line in text.rstrip().splitlines()))


def wait(what: str, ask: Callable[[], bool]) -> None:
    for _ in process.until(WAIT_S, 0.2):
        if ask():
            return
    raise process.Failed(f"within {WAIT_S:.0f} s not: {what}")


if __name__ == "__main__":
    sys.exit(main())
