"""Scoring policies as documents: the built-in ones beside this file, and those of users.

`load` takes either's name, so that a command line or a config names a policy in one way.
"""

from importlib import resources
from pathlib import Path

from scheduler import bad_input, document
from scheduler.placement import policy

DEFAULT = "muster"


class PolicyError(bad_input.BadInput):
    """A policy document that was refused: file, line, field and remedy in one message."""


def names() -> list[str]:
    """Return the names of the built-in policies, our own first."""
    found = sorted(
        entry.name.removesuffix(".yaml") for entry in resources.files(__name__).iterdir() if _is_policy(entry.name)
    )
    return [DEFAULT, *(name for name in found if name != DEFAULT)]


def load(name: str) -> policy.ScoringPolicy:
    """Return a built-in policy by name, or one from a file.

    Parameters
    ----------
    name : str
        A built-in name, or a path: anything with a slash or a ``.yaml`` or ``.yml`` ending.

    Raises
    ------
    PolicyError
        No such policy, or a malformed document.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return document.read(Path(name), PolicyError).check(policy.ScoringPolicy)
    if name not in names():
        raise PolicyError("no built-in policy of this name", value=name, remedy=f"built in are {', '.join(names())}")
    return document.parse(f"{name}.yaml", text(name), PolicyError).check(policy.ScoringPolicy)


def text(name: str) -> str:
    """Return the document of a built-in policy."""
    return resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def _is_policy(name: str) -> bool:
    return name.endswith(".yaml")
