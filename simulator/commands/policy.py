"""``muster-sim policy``: list, show, validate."""

import click

from scheduler import policies
from scheduler.placement import policy
from simulator.commands import console
from simulator.report import sheet


@click.group()
def command() -> None:
    """List, show or validate scoring policies.

    \b
    muster-sim policy list
    muster-sim policy show muster > mine.yaml
    muster-sim policy validate mine.yaml
    """


@command.command("list")
@console.json_option
def list_(as_json: bool) -> None:
    """List the built-in policies.

    \b
    muster-sim policy list
    """
    made = [policies.load(name) for name in policies.names()]
    if as_json:
        console.put_json([each.model_dump(by_alias=True) for each in made])
        return
    rows = [
        (each.metadata.name, each.spec.pods.rule, each.spec.gangs.domains, each.spec.gangs.devices, _weights(each))
        for each in made
    ]
    console.show([sheet.sheet("Policies", "<policy|<lone pods|<domains of gangs|<devices|<weights", rows)])


@command.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the document of a policy, to be copied and changed.

    \b
    muster-sim policy show muster
    """
    if name in policies.names():
        click.echo(policies.text(name), nl=False)
        return
    click.echo(policies.load(name).model_dump_json(by_alias=True, indent=2))


@command.command()
@click.argument("name")
def validate(name: str) -> None:
    """Check a policy: exit code 0 and one line when it is good, else 2 and the fault with file, line and field.

    \b
    muster-sim policy validate mine.yaml
    """
    made = policies.load(name)
    click.echo(f"{name}: valid, policy {made.metadata.name}")


def _weights(made: policy.ScoringPolicy) -> str:
    """Write the weights that differ from the rule's own."""
    given = {**made.spec.pods.weights, **made.spec.gangs.weights}
    return ", ".join(f"{name} {weight}" for name, weight in given.items()) or "-"
