"""The part of CEL that is understood: what it says, and that everything else is refused."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as some

from scheduler.kube import cel, cel_device, part
from scheduler.model import machines, slices

ENTRY = next(e for e in slices.encode(machines.build("hgx-h100", "n"))[0]["spec"]["devices"] if e["name"] == "gpu-2")
ENTRY = ENTRY | {
    "attributes": ENTRY["attributes"]
    | {
        "driverVersion": {"version": "550.90.7-rc.2"},
        "uuid": part.MASKED,
        "numa": {"ints": [0, 1]},
        "other.dev/x": {"int": -4},
    }
}
OURS = "device.attributes['gpu.muster.dev']"

TRUE = [
    "device.driver == 'gpu.muster.dev'",
    'device.driver == "gpu.muster.dev" && !false',
    f"{OURS}.type == 'gpu' || {OURS}.nothing",
    f"{OURS}.nothing == 1 || {OURS}.index == 2",
    f"!({OURS}.nothing == 1 && {OURS}.index == 3)",
    f"{OURS}['index'] == 2 && {OURS}.index != 3 && {OURS}.index < 3 && {OURS}.index >= 2 && {OURS}.index > -1",
    f"{OURS}.productName in ['H100-SXM5-80GB', 'x']",
    f"'type' in {OURS} && !('nothing' in {OURS}) && !('a' in device.attributes['nobody'])",
    f"has({OURS}.type) && !has({OURS}.nothing) && has({OURS}.uuid)",
    f"{OURS}.?nothing.orValue('a') == 'a' && {OURS}.?type.orValue('a') == 'gpu' && !{OURS}.?nothing.hasValue()",
    "device.capacity['gpu.muster.dev'].memory.compareTo(quantity('79Gi')) > 0",
    "device.capacity['gpu.muster.dev'].memory.isLessThan(quantity('1Ti'))",
    "device.allowMultipleAllocations",
    f"{OURS}.driverVersion.isGreaterThan(semver('550.90.7-rc.1')) && {OURS}.driverVersion.isLessThan(semver('550.90.7'))",
    f"{OURS}.driverVersion.major() == 550",
    f"{OURS}.productName.startsWith('H1') && {OURS}.productName.endsWith('GB') && {OURS}.productName.contains('SXM')",
    f"{OURS}.productName.lowerAscii().matches('^h[12]00-') && {OURS}.productName.size() == size('H100-SXM5-80GB')",
    "device.attributes['resource.kubernetes.io'].numaNode == 0",
    "device.attributes['other.dev'].x == -4 && 'x' != 4",
    f"{OURS}.numa.includes(1) && {OURS}.index.includes(2)",
    f"{OURS}.index == 2 ? true : {OURS}.nothing",
    "!!true",
    "true" + " && true" * 900,
    "false" + " || false" * 900 + " || true",
]


@pytest.mark.parametrize("text", TRUE)
def test_true(text: str) -> None:
    program = cel.compile_expression(text)
    assert program.holds(cel_device.device("gpu.muster.dev", ENTRY)) is True
    assert cel.compile_expression(f"!({text})").holds(cel_device.device("gpu.muster.dev", ENTRY)) is False


REFUSED = [
    ("", "'the end'"),
    ("device.driver", "no truth value"),
    ("device", "device is not understood"),
    ("device.pool == 'x'", "device.pool is not understood"),
    ("1 + 1 == 2", r"'\+ 1"),
    ("true true", "'true' is not expected"),
    ("[1].exists(x, x == 1)", "x is not understood"),
    ("(true", r"'\)' is expected"),
    ("1 < 'a'", "no order between an integer and a string"),
    ("true < 1", "no order"),
    ("1.5 > 1", "not understood"),
    ("0x10 == 16", "not understood"),
    (r"'\u0041' == 'A'", "escape"),
    ("'a'.matches('(a+)+')", "without groups"),
    ("'a'.matches('a*a*a*a*b')", "without groups"),
    ("'a'.matches('[')", "matches"),
    ("'a'.reverse() == 'a'", r"a string has no reverse\(\) here"),
    ("semver('1.2').major() == 1", "no semantic version"),
    ("quantity('x').isLessThan(quantity('1'))", "no quantity"),
    ("device.capacity['gpu.muster.dev'].memory > 4", "no order"),
    ("1 && true", "truth value is expected"),
    ("!1", "truth value is expected"),
    (f"{OURS}.nothing == 1", "device gpu-2 has no attribute or capacity nothing"),
    (f"{OURS}.uuid == 'a'", "uuid tells apart"),
    (f"{OURS}.?uuid.orValue('') == 'a'", "uuid tells apart"),
    (f"has({OURS}.type.x)", "only attributes and capacities have members"),
    ("has(device.nothing)", "device.nothing is not understood"),
    ("(" * 30 + "true" + ")" * 30, "nested deeper"),
    (OURS + ".type" * 17, "members in a row"),
    ("1" + " == 1" * 17, "comparisons in a row"),
    ("device.attributes[[1]].x == 1", "names of attributes are strings, not a list"),
    (f"{OURS}[1] == 1", "names of attributes are strings, not an integer"),
    (f"[1] in {OURS}", "names of attributes are strings, not a list"),
    (f"{OURS}.nothing == 1 || false", "no attribute or capacity nothing"),
    (f"{OURS}.nothing == 1 && true && {OURS}.type == 'gpu'", "no attribute or capacity nothing"),
    ("!" * 2001 + "true", "tokens"),
    ("'" + "a" * 10_240 + "' == 'a'", "characters"),
]


@pytest.mark.parametrize(("text", "problem"), REFUSED)
def test_refused(text: str, problem: str) -> None:
    with pytest.raises(cel_device.CelError, match=problem):
        cel.compile_expression(text).holds(cel_device.device("gpu.muster.dev", ENTRY))


PIECES = [
    "device",
    ".driver",
    ".attributes",
    "['gpu.muster.dev']",
    ".type",
    "==",
    "'gpu'",
    "&&",
    "||",
    "!",
    "(",
    ")",
    "?",
    ":",
]


@given(some.lists(some.sampled_from([*PIECES, "has(", ".?x", "[", "]", "1", "in", ".size()", ",", "<", "\\", '"'])))
def test_any_text_is_answered_or_refused(pieces: list[str]) -> None:
    begin = time.monotonic()
    try:
        answer = cel.compile_expression(" ".join(pieces)).holds(cel_device.device("gpu.muster.dev", ENTRY))
        assert isinstance(answer, bool)
    except cel_device.CelError:
        pass
    assert time.monotonic() - begin < 1


def test_reads_are_noted() -> None:
    device = cel_device.device("gpu.muster.dev", ENTRY)
    cel.compile_expression(f"device.driver == 'gpu.muster.dev' && {OURS}.type == 'gpu' || {OURS}.rail == 3").holds(
        device
    )
    assert device.read == {"type"}
