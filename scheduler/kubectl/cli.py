"""The command ``kubectl muster``.

Exit codes: 0 done; 1 it failed; 2 it was called wrongly; 3 the scheduler can't be reached; 4 there is no such object;
5 ``whatif``: it would not fit.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib import parse

import aiohttp
import click
import orjson

from scheduler.apiserver import access, client, errors
from scheduler.kubectl import reach, records, tables, views

FAILED, UNREACHABLE, MISSING, NO_ROOM = 1, 3, 4, 5

MAX_MANIFEST = 1024 * 1024

NOTHING: Mapping[str, str] = MappingProxyType({})

Command = Callable[..., Any]
Fallback = Callable[[client.Client], Awaitable[reach.Answer]]


def common(command: Command) -> Command:
    """Give a command the options that all have."""
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    for add in (
        click.option("-o", "--output", type=click.Choice(["json"]), help="For programs: the scheduler's whole answer."),
        click.option("--kubeconfig", type=file, help="Kubeconfig file; KUBECONFIG or ~/.kube/config without."),
        click.option("--context", help="Context of the kubeconfig; the current one without."),
        click.option(
            "--service",
            default=reach.SERVICE,
            show_default=True,
            envvar="MUSTER_SERVICE",
            help="The scheduler's service, reached through the API server.",
        ),
        click.option(
            "--server",
            default="",
            envvar="MUSTER_SERVER",
            help="Address of the scheduler itself, as after `kubectl -n muster-system port-forward`.",
        ),
        click.option("--ca", type=file, help="PEM file of certificates to trust at --server."),
    ):
        command = add(command)
    return command


def namespaced(command: Command) -> Command:
    """Give a command the option -n."""
    return click.option("-n", "--namespace", default="", help="Namespace; that of the context without.")(command)


class Call:
    """One call: where to ask, and how to write what is said."""

    def __init__(self, values: dict[str, Any]) -> None:
        names = ("kubeconfig", "context", "server", "ca", "service")
        self.where = reach.Where(**{name: values.pop(name) for name in names})
        self.json: bool = values.pop("output") == "json"
        self._namespace: str = values.pop("namespace", "")

    @property
    def namespace(self) -> str:
        """Return the namespace that was named, else that of the context."""
        return self._namespace or reach.namespace(self.where)

    def ask(
        self,
        path: str,
        params: Mapping[str, str] = NOTHING,
        body: bytes | None = None,
        fallback: Fallback | None = None,
    ) -> reach.Answer:
        """Return the scheduler's answer, or what the API server's objects tell where it can't be reached."""
        return asyncio.run(self._ask(path, body, fallback, params))

    async def _ask(
        self, path: str, body: bytes | None, fallback: Fallback | None, params: Mapping[str, str]
    ) -> reach.Answer:
        try:
            async with reach.scheduler(self.where) as one:
                return await one.ask(path, body, **params)
        except reach.Unreachable as problem:
            if fallback is None:
                raise
            click.echo(f"kubectl-muster: {problem}; read from GangPlacements and Events instead", err=True)
            async with reach.api_server(self.where) as api:
                return await fallback(api)

    def write(self, answer: reach.Answer, view: Callable[[tables.Paper], None]) -> None:
        """Write an answer as it is, or as people read it; who answered is told where it was no leader."""
        by = answer.get("by") or {}
        if self.json:
            sys.stdout.write(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode() + "\n")
            return
        if by.get("note") and by.get("identity"):
            click.echo(f"kubectl-muster: {tables.clean(by['identity'])}: {tables.clean(by['note'])}", err=True)
        view(tables.Paper.standard())


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done; 1 failed; 2 called wrongly; 3 the scheduler can't be reached; 4 no such object;"
    " 5 whatif: it would not fit. See docs/kubectl.md.",
)
@click.version_option(package_name="muster-scheduler", prog_name="kubectl-muster")
def group() -> None:
    """Ask Muster where gangs of GPU pods are, why there, and why not yet.

    \b
    kubectl muster gangs -A
    kubectl muster explain gang train -n ml
    kubectl muster whatif -f jobset.yaml && kubectl apply -f jobset.yaml
    """


@group.command()
@namespaced
@click.option("-A", "--all-namespaces", is_flag=True, help="Gangs of all namespaces.")
@click.option("--state", default="", help="Only those: Running, Waiting, Incomplete, Allocating, Reserved, Rejected.")
@click.option("--limit", type=click.IntRange(1, 5000), default=500, show_default=True, help="Most to list.")
@common
def gangs(all_namespaces: bool, state: str, limit: int, **values: Any) -> None:
    """List gangs: state, pods, nodes, and why they wait."""
    call = Call(values)
    space = "" if all_namespaces else call.namespace
    params = {"namespace": space, "state": state, "limit": str(limit)}
    answer = call.ask("/explain/gangs", params, fallback=lambda api: records.gangs(api, space, state, limit))
    call.write(answer, lambda paper: views.gangs(paper, answer, all_namespaces))


@group.group()
def explain() -> None:
    """Explain one gang or one pod."""


@explain.command("gang")
@click.argument("name")
@click.option("--kind", default="gang", help="Kind of the owner (JobSet, Job, ...) where a name alone is not clear.")
@namespaced
@common
def explain_gang(name: str, kind: str, **values: Any) -> None:
    """Tell where a gang is and why there, or why it waits and what is missing.

    NAME is that of its GangPlacement, or of its owner: of the JobSet, say.
    """
    call = Call(values)
    space = call.namespace
    path = f"/explain/gangs/{_quoted(space)}/{_quoted(kind)}/{_quoted(name)}"
    answer = call.ask(path, fallback=lambda api: records.gang(api, space, name))
    call.write(answer, lambda paper: views.gang(paper, answer))


@explain.command("pod")
@click.argument("name")
@namespaced
@common
def explain_pod(name: str, **values: Any) -> None:
    """Tell which gang a pod is of and where it goes, or what kube-scheduler is told of the nodes."""
    call = Call(values)
    space = call.namespace
    path = f"/explain/pods/{_quoted(space)}/{_quoted(name)}"
    answer = call.ask(path, fallback=lambda api: records.pod(api, space, name))
    call.write(answer, lambda paper: views.pod(paper, answer))


@group.command()
@click.option("--under", default="", help="Only this domain and what is in it.")
@click.option("--depth", type=click.IntRange(0, 32), default=0, help="Levels to show; all where 0.")
@common
def topology(under: str, depth: int, **values: Any) -> None:
    """Show the tree of domains with free and used GPUs."""
    call = Call(values)
    answer = call.ask("/explain/topology", {"under": under, "depth": str(depth)})
    call.write(answer, lambda paper: views.topology(paper, answer))


@group.command()
@click.option("--limit", type=click.IntRange(0, 5000), default=50, show_default=True, help="Most nodes to list.")
@common
def top(limit: int, **values: Any) -> None:
    """Show devices by use, tenants, how scattered the free GPUs are, and the busiest nodes."""
    call = Call(values)
    answer = call.ask("/explain/top", {"limit": str(limit)})
    call.write(answer, lambda paper: views.top(paper, answer))


@group.command()
@click.option(
    "-f", "--filename", type=click.File("rb"), required=True, help="Manifest, YAML or JSON; - for standard input."
)
@click.option(
    "--priority", type=click.IntRange(0, 1_000_000_000), default=0, help="Value of the gangs' priority class."
)
@namespaced
@common
def whatif(filename: Any, priority: int, **values: Any) -> None:
    """Tell whether a manifest would fit now: where, on which devices, or what is missing. Changes nothing.

    Exit code 0 where all of it would fit, 5 where not.
    """
    call = Call(values)
    body = filename.read(MAX_MANIFEST + 1)
    if len(body) > MAX_MANIFEST:
        raise click.UsageError(f"-f {filename.name}: more than {MAX_MANIFEST} bytes")
    params = {"namespace": call.namespace, "priority": str(priority)}
    answer = call.ask("/explain/whatif", params, body)
    call.write(answer, lambda paper: views.whatif(paper, answer))
    if not answer["fits"]:
        raise click.exceptions.Exit(NO_ROOM)


def _quoted(name: str) -> str:
    return parse.quote(name, safe="")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        code = group.main(args=arguments, prog_name="kubectl muster", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return FAILED
    except reach.Unreachable as error:
        return _tell(error, UNREACHABLE)
    except reach.Refused as error:
        return _tell(error, MISSING if error.missing else FAILED)
    except errors.ApiError as error:
        return _tell(f"API server: {error}", FAILED)
    except (access.KubeconfigError, aiohttp.ClientError, TimeoutError, OSError) as error:
        return _tell(error or type(error).__name__, FAILED)
    return code if isinstance(code, int) else 0


def _tell(problem: object, code: int) -> int:
    click.echo(f"kubectl-muster: {tables.clean(str(problem))}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
