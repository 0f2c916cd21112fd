"""Versioned YAML documents whose every error names file, line and field.

A document is composed to nodes first, because only nodes know their lines, then checked by a pydantic model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from scheduler import bad_input

MAX_BYTES = 64 << 20
MAX_VALUES = 1_000_000
"""Values of one document, aliases expanded: a document of nested aliases grows without bound."""

MAX_DEPTH = 64

Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=pydantic.BaseModel)

MESSAGES = {
    "extra_forbidden": "unknown field",
    "missing": "this field is missing",
}
"""Our words for pydantic's."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document as plain values, with the line of each.

    Attributes
    ----------
    lines : mapping of place to line
        A place is the path of keys and indices from the top.
    """

    file: str
    value: Any
    lines: Mapping[Place, int]
    error: type[bad_input.BadInput]

    def line(self, place: Place) -> int:
        """Return the line of a value, or of the nearest one around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def fault(self, place: Place, problem: str, value: object = "", remedy: str = "") -> bad_input.BadInput:
        """Return the error that a value deserves."""
        return self.error(
            problem, file=self.file, line=self.line(place), field=spell(place), value=str(value), remedy=remedy
        )

    def check(self, model: type[Model]) -> Model:
        """Return the document as a model.

        Raises
        ------
        BadInput
            The first value that the model refuses.
        """
        try:
            return model.model_validate(self.value)
        except pydantic.ValidationError as error:
            # A misspelt field is also a missing one; what is written there tells more than what is not.
            first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
            place = self._known(tuple(first["loc"]), first["type"] == "missing")
            words = MESSAGES.get(first["type"], first["msg"].removeprefix("Value error, ").replace("Input", "it"))
            value = "" if isinstance(first["input"], (dict, list)) or first["type"] == "missing" else first["input"]
            raise self.fault(place, words, value) from error

    def _known(self, place: Place, missing: bool) -> Place:
        """Drop what pydantic puts into a path for unions: parts that are no keys of the document."""
        kept: Place = ()
        for number, part in enumerate(place):
            if (*kept, part) in self.lines or (missing and number == len(place) - 1):
                kept = (*kept, part)
        return kept


def read(path: Path, error: type[bad_input.BadInput]) -> Document:
    """Read a document from a file.

    Raises
    ------
    BadInput
        Of the class `error`.
    """
    file = str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise error(f"more than {MAX_BYTES} bytes", file=file)
        data = path.read_bytes()
    except OSError as failure:
        raise error(f"cannot be read ({failure.strerror or failure})", file=file) from failure
    try:
        return parse(file, data.decode("utf-8-sig"), error)
    except UnicodeDecodeError as failure:
        line = data.count(b"\n", 0, failure.start) + 1
        remedy = "save the file as UTF-8"
        raise error("bytes that are not UTF-8", file=file, line=line, remedy=remedy) from failure


def parse(file: str, text: str, error: type[bad_input.BadInput]) -> Document:
    """Parse one document."""
    kind = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = kind(text)
    try:
        if line := _too_deep(text, kind):
            raise error(f"nested more than {MAX_DEPTH} levels deep", file=file, line=line)
        top = loader.get_single_node()
        if top is None:
            raise error("the document is empty", file=file)
        reader = _Reader(loader, file, error)
        value = reader.value(top, ())
    except yaml.MarkedYAMLError as failure:
        line = failure.problem_mark.line + 1 if failure.problem_mark else 0
        raise error(f"not valid YAML: {failure.problem or failure.context}", file=file, line=line) from failure
    except (yaml.YAMLError, ValueError) as failure:
        if isinstance(failure, bad_input.BadInput):
            raise
        raise error(f"not valid YAML: {str(failure).splitlines()[0]}", file=file) from failure
    finally:
        loader.dispose()
    return Document(file, value, reader.lines, error)


def _too_deep(text: str, kind: Any) -> int:
    """Return the line in which the nesting becomes too deep, 0 where it does not.

    Looked at before the document is composed: that recurses in C, and a deep enough document ends the process.
    """
    depth = 0
    for event in yaml.parse(text, kind):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH + 1:
            return event.start_mark.line + 1 if event.start_mark else 1
    return 0


def spell(place: Place) -> str:
    """Write a place as people read it.

    Examples
    --------
    >>> spell(("spec", "domains", 0, "name"))
    'spec.domains[0].name'
    """
    words = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return words.removeprefix(".")


class _Reader:
    """Turns YAML nodes into values and remembers the line of each."""

    def __init__(self, loader: Any, file: str, error: type[bad_input.BadInput]) -> None:
        self.loader, self.file, self.error = loader, file, error
        self.lines: dict[Place, int] = {}

    def value(self, node: yaml.Node, place: Place) -> Any:
        """Return the value of a node."""
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        if len(place) > MAX_DEPTH or len(self.lines) > MAX_VALUES:
            problem = "nested too deeply, or an alias that contains itself, or too many values"
            raise self.error(problem, file=self.file, line=line, field=spell(place[:6]))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*place, index)) for index, child in enumerate(node.value)]
        return self.loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, child in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in values:
                raise self.error("the key occurs twice", file=self.file, line=line, field=spell((*place, key)))
            self.lines[(*place, key)] = line
            values[key] = self.value(child, (*place, key))
        return values
