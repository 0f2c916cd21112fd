"""The part of CEL in which people select devices, strictly: what is not understood is refused, never guessed.

Understood are literals, lists, ``device`` with its fields, ``.name``, ``.?name``, ``['name']``, ``has()``, comparisons, ``in``,
``!``, ``&&``, ``||``, ``? :``, ``quantity()``, ``semver()`` and the methods in `cel_device`. Macros that loop are not: an
expression costs at most its own length.

References
----------
github.com/google/cel-spec, language definition: grammar, precedence, and how ``&&`` and ``||`` absorb errors.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from scheduler.kube import cel_device, cel_terms
from scheduler.kube.cel_device import CelError, Device
from scheduler.kube.cel_terms import Run

MAX_LENGTH = 10 * 1024
"""Characters of an expression, as in the API."""
MAX_TOKENS = 2000
MAX_DEPTH = 24
MAX_CHAIN = 16

TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>r?"(?:[^"\\\n]|\\.)*"|r?'(?:[^'\\\n]|\\.)*')
  | (?P<number>\d{1,18}(?![\w.]))
  | (?P<name>[A-Za-z_]\w*)
  | (?P<sign>&&|\|\||==|!=|<=|>=|\.\?|[-<>!?:.,()\[\]])
  )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled expression."""

    text: str
    run: Run

    def holds(self, device: Device) -> bool:
        """Return what the expression says of a device.

        Raises
        ------
        CelError
            It fails, or its value is no truth value.
        """
        value = self.run(device)
        if not isinstance(value, bool):
            raise CelError("the value is no truth value")
        return value


@lru_cache(maxsize=1024)
def compile_expression(text: str) -> Program:
    """Compile an expression.

    Raises
    ------
    CelError
        It is too long, no CEL, or outside the part that is understood.

    Examples
    --------
    >>> gpu = Device("d", "gpu-0", {"d": {"type": "gpu"}}, {"d": {"memory": cel_device.to_quantity("80Gi")}})
    >>> compile_expression("device.capacity['d'].memory.compareTo(quantity('40Gi')) >= 0").holds(gpu)
    True
    """
    if len(text) > MAX_LENGTH:
        raise CelError(f"{len(text)} characters, at most {MAX_LENGTH} are read")
    parser = _Parser(_tokens(text))
    run = parser.choice()
    if parser.kind:
        raise CelError(f"{parser.word!r} is not expected")
    return Program(text, run)


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = TOKEN.match(text, at)
        if match is None:
            raise CelError(f"{text[at : at + 20].strip()!r} is not understood")
        found.append((str(match.lastgroup), match[str(match.lastgroup)]))
        at = match.end()
    if len(found) > MAX_TOKENS:
        raise CelError(f"{len(found)} tokens, at most {MAX_TOKENS} are read")
    return found


@dataclass(slots=True)
class _Parser:
    """Recursive descent; every method returns a function of the device."""

    tokens: list[tuple[str, str]]
    at: int = 0
    depth: int = field(default=0)

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    @property
    def word(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        word = self.word
        self.at += 1
        return word

    def accept(self, *signs: str) -> str:
        """Take one of some signs, "" where something else comes."""
        return self.take() if self.kind == "sign" and self.word in signs else ""

    def expect(self, sign: str) -> None:
        if not self.accept(sign):
            raise CelError(f"{sign!r} is expected, not {self.word or 'the end'!r}")

    def choice(self) -> Run:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CelError(f"nested deeper than {MAX_DEPTH}")
        run = self.either()
        if self.accept("?"):
            yes = self.choice()
            self.expect(":")
            run = cel_terms.choice(run, yes, self.choice())
        self.depth -= 1
        return run

    def either(self) -> Run:
        terms = [self.both()]
        while self.accept("||"):
            terms.append(self.both())
        return cel_terms.logic(terms, True)

    def both(self) -> Run:
        terms = [self.relation()]
        while self.accept("&&"):
            terms.append(self.relation())
        return cel_terms.logic(terms, False)

    def relation(self) -> Run:
        run = self.unary()
        for _ in range(MAX_CHAIN):
            sign = self.accept("==", "!=", "<", "<=", ">", ">=")
            if not sign and (self.kind, self.word) == ("name", "in"):
                sign = self.take()
            if not sign:
                return run
            run = cel_terms.relation(sign, run, self.unary())
        raise CelError(f"more than {MAX_CHAIN} comparisons in a row")

    def unary(self) -> Run:
        turns = 0
        while self.accept("!"):
            turns += 1
        if self.accept("-"):
            if self.kind != "number":
                raise CelError("- is understood before a number only")
            number = -int(self.take())
            return lambda _: number
        run = self.member(self.primary())
        return cel_terms.negated(run) if turns % 2 else cel_terms.truth(run) if turns else run

    def primary(self) -> Run:
        if self.accept("("):
            run = self.choice()
            self.expect(")")
            return run
        if self.accept("["):
            items = self.arguments("]")
            return lambda device: [item(device) for item in items]
        kind, word = self.kind, self.take()
        if kind == "name":
            return self.named(word)
        if kind not in ("text", "number"):
            raise CelError(f"{word or 'the end'!r} is not expected")
        value = cel_terms.literal(word)
        return lambda _: value

    def named(self, word: str) -> Run:
        if word in ("true", "false"):
            return lambda _: word == "true"
        if word == "device" and self.accept("."):
            return self.field(self.take())
        if word in cel_terms.FUNCTIONS and self.accept("("):
            arguments = self.arguments(")")
            if len(arguments) != 1:
                raise CelError(f"{word}: one argument expected, got {len(arguments)}")
            run, (argument,) = cel_terms.FUNCTIONS[word], arguments
            return lambda device: run(argument, device)
        raise CelError(f"{word} is not understood")

    def field(self, name: str) -> Run:
        """Read a field of ``device``; attributes and capacities are read with domain and name at once."""
        if name == "driver":
            return lambda device: device.driver
        if name == "allowMultipleAllocations":
            return lambda device: device.multiple
        if name not in ("attributes", "capacity"):
            raise CelError(f"device.{name} is not understood")
        self.expect("[")
        domain = self.choice()
        self.expect("]")

        def read(device: Device) -> Any:
            found: Any = device.attributes if name == "attributes" else device.capacity
            key = domain(device)
            return found[key] if cel_device.holds(key, found) else {}

        return read

    def member(self, run: Run) -> Run:
        for _ in range(MAX_CHAIN):
            sign = self.accept(".", ".?", "[")
            if not sign:
                return run
            if sign == "[":
                run = cel_terms.item(run, self.choice())
                self.expect("]")
            else:
                run = self.named_member(run, sign)
        raise CelError(f"more than {MAX_CHAIN} members in a row")

    def named_member(self, run: Run, sign: str) -> Run:
        if self.kind != "name":
            raise CelError(f"a name is expected after {sign}, not {self.word or 'the end'!r}")
        name = self.take()
        if sign == ".?":
            return cel_terms.optional(run, name)
        if self.accept("("):
            return cel_terms.call(run, name, self.arguments(")"))
        return cel_terms.item(run, lambda _: name)

    def arguments(self, end: str) -> list[Run]:
        found: list[Run] = []
        while not self.accept(end):
            found.append(self.choice())
            if not self.accept(","):
                self.expect(end)
                break
        return found
