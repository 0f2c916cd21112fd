"""The testbed's command: ``python -m tests.testbed up | down | status | logs | env | doctor``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click
import psutil

from tests.testbed import build, cgroups, doctor, process, serve, versions
from tests.testbed import home as homes
from tests.testbed.fleet import presets

START_S = 600.0
NAME = click.option("--name", default="muster", show_default=True, help="Name of the cluster; several can run at once.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Run a real Kubernetes cluster on this machine: control plane, real and simulated nodes, controllers."""


@main.command()
@NAME
@click.option("--kubernetes", default=versions.NEWEST, show_default=True, help="1.37.2, or the floor 1.34.4.")
@click.option("--nodes", default=2, show_default=True, type=click.IntRange(0, 8), help="Real nodes; they need root.")
@click.option(
    "--fleet",
    default="fleet_16",
    show_default=True,
    help=f"Simulated nodes, with their ResourceSlices: {', '.join(presets.PRESETS)}, KIND=COUNT with commas, or none.",
)
@click.option(
    "--controllers",
    default="jobset,kueue,lws",
    show_default=True,
    help="Which of jobset, kueue, lws to run, with commas; none for none.",
)
def up(name: str, kubernetes: str, nodes: int, fleet: str, controllers: str) -> None:
    """Start a cluster and leave it running."""
    home = homes.Home(name)
    if home.server():
        click.echo(f"cluster {name} runs already")
        usage(home)
        return
    wanted = serve.Wanted(name, _version(kubernetes), _nodes(nodes), _fleet(fleet), _chosen(controllers))
    try:
        build.everything(wanted.version, wanted.controllers, bool(wanted.real_nodes), _elapsed())
    except (build.CannotBuild, OSError) as error:
        raise click.ClickException(str(error)) from error
    _clean(home)
    pid = serve.spawn(wanted)
    try:
        follow(home, pid)
    except KeyboardInterrupt:
        click.echo("interrupted; stopping what was started")
        end(home)
        sys.exit(130)
    usage(home)


@main.command()
@NAME
@click.option("--all", "every", is_flag=True, help="End every cluster of this user.")
def down(name: str, every: bool) -> None:
    """End a cluster; nothing of it is left."""
    chosen = list(homes.all_homes()) if every else [homes.Home(name)]
    for home in chosen:
        if home.read() is None:
            click.echo(f"no cluster {home.name}")
            continue
        began = time.monotonic()
        end(home)
        click.echo(f"cluster {home.name} ended in {time.monotonic() - began:.1f} s")


@main.command()
@NAME
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(name: str, as_json: bool) -> None:
    """Show the parts of a cluster with their memory, and its nodes."""
    state = _state(name)
    parts = [_part(part, pid) for part, pid in state.get("parts", {}).items()]
    state = state | {"running": homes.Home(name).server() is not None, "parts": parts}
    if as_json:
        click.echo(json.dumps(state, indent=2))
        return
    click.echo(f"cluster {name}: {state['phase']}, Kubernetes {state.get('version')}, {state.get('server')}")
    for part in parts:
        click.echo(f"  {part['name']:26} {part['state']:8} pid {part['pid']:<8} {part['mib']:6.0f} MiB")
    if not state["running"]:
        raise click.ClickException(f"the process that held it is gone; `down --name {name}` clears the rest")


@main.command()
@NAME
@click.argument("part", required=False)
@click.option("--lines", default=40, show_default=True)
def logs(name: str, part: str | None, lines: int) -> None:
    """Show the end of a part's log (all parts without PART)."""
    folder = Path(_state(name).get("folder", homes.Home(name).folder))
    found = {path.stem: path for path in (*folder.glob("logs/*.log"), *folder.glob("n*/logs/*.log"))}
    found |= {f"{path.parents[1].name}-{path.stem}": path for path in folder.glob("n*/logs/*.log")}
    found["serve"] = homes.Home(name).log
    if part and part not in found:
        raise click.ClickException(f"{part}: no such part; there are {', '.join(sorted(found))}")
    for one in [part] if part else sorted(found):
        click.echo(f"== {one}")
        click.echo(process.tail(found[one], lines))


@main.command()
@NAME
def env(name: str) -> None:
    """Print shell exports: ``eval "$(python -m tests.testbed env)"``."""
    state = _state(name)
    if state["phase"] != serve.READY:
        raise click.ClickException(f"cluster {name} is {state['phase']}")
    click.echo(f"export KUBECONFIG={state['kubeconfig']}")
    click.echo(f"export PATH={build.kubectl().parent}:$PATH")


@main.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor_command(as_json: bool) -> None:
    """Say what this machine lacks for a testbed, and the remedy for each."""
    found = doctor.examine()
    if as_json:
        click.echo(
            json.dumps([{"what": one.what, "found": one.found, "remedy": one.remedy} for one in found], indent=2)
        )
    else:
        for one in found:
            click.echo(f"{'LACKS' if one.remedy else 'ok':6} {one.what:12} {one.found}")
            if one.remedy:
                click.echo(f"{'':19} {one.remedy}")
    sys.exit(1 if any(one.remedy for one in found) else 0)


def follow(home: homes.Home, pid: int) -> None:
    """Show the lines of a starting cluster until it is ready."""
    shown = 0
    for _ in process.until(START_S, 0.1):
        state = home.read() or {"lines": [], "phase": serve.STARTING}
        for line in state["lines"][shown:]:
            click.echo(line)
        shown = len(state["lines"])
        if state["phase"] == serve.READY:
            return
        gone, _ = os.waitpid(pid, os.WNOHANG)
        if state["phase"] == serve.FAILED or gone:
            _clean(home, keep_log=True)
            raise click.ClickException(f"the cluster did not start; {home.log} ends with\n{process.tail(home.log, 15)}")
    end(home)
    raise click.ClickException(f"the cluster was not ready within {START_S:g} s")


def usage(home: homes.Home) -> None:
    state = home.read() or {}
    click.echo(f"\n  export KUBECONFIG={state.get('kubeconfig')}\n  {build.kubectl()} get nodes")
    suffix = "" if home.name == "muster" else f" --name {home.name}"
    click.echo(f"  python -m tests.testbed status{suffix}      end it with `make cluster-down`")


def end(home: homes.Home) -> None:
    """Ask the holding process to end, insist if it does not, and clear what it could not."""
    if found := home.server():
        found.terminate()
        try:
            found.wait(60)
        except psutil.TimeoutExpired:
            found.kill()
            found.wait(10)
    _clean(home)


def _clean(home: homes.Home, keep_log: bool = False) -> None:
    """Remove what a killed holder left; its processes and mounts are gone with it."""
    state = home.read() or {}
    for name in state.get("cgroups", ()):
        cgroups.remove(name)
    shutil.rmtree(home.folder, ignore_errors=True)
    if not keep_log:
        home.forget()


def _state(name: str) -> dict[str, Any]:
    state = homes.Home(name).read()
    if state is None:
        others = ", ".join(one.name for one in homes.all_homes())
        raise click.ClickException(f"no cluster {name}" + (f"; there is {others}" if others else "; `up` starts one"))
    return state


def _part(name: str, pid: int) -> dict[str, Any]:
    try:
        found = psutil.Process(pid)
        family = [found, *found.children(recursive=True)]
        mib = sum(one.memory_info().rss for one in family) / 2**20
        return {"name": name, "pid": pid, "state": "running", "mib": mib}
    except psutil.NoSuchProcess:
        return {"name": name, "pid": pid, "state": "ended", "mib": 0.0}


def _version(asked: str) -> str:
    try:
        return versions.kubernetes(asked).version
    except LookupError as error:
        raise click.BadParameter(str(error.args[0]), param_hint="--kubernetes") from error


def _nodes(asked: int) -> int:
    """Leave real nodes out, with a clear word, where the machine cannot run them."""
    lacking = doctor.lacking(real_nodes=bool(asked))
    basic = {one.what for one in doctor.examine(real_nodes=False)}
    for one in lacking:
        if one.what in basic:
            raise click.ClickException(f"{one.what}: {one.found}; {one.remedy}")
        click.echo(f"without real nodes: {one.what}: {one.found}; {one.remedy}", err=True)
    return 0 if lacking else asked


def _chosen(asked: str) -> tuple[str, ...]:
    chosen = tuple(one for one in asked.split(",") if one and one != "none")
    if unknown := [one for one in chosen if one not in serve.CONTROLLERS]:
        raise click.BadParameter(
            f"{', '.join(unknown)}: choose from {', '.join(serve.CONTROLLERS)}", param_hint="--controllers"
        )
    return chosen


def _fleet(asked: str) -> str:
    try:
        return "" if asked == "none" else (presets.read(asked) and asked)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fleet") from error


def _elapsed() -> build.Tell:
    """Return a teller that puts the time since now before each line."""
    began = time.monotonic()
    return lambda text: click.echo(f"{time.monotonic() - began:6.1f} s  {text}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main(prog_name="python -m tests.testbed")
