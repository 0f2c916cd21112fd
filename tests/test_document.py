"""Documents that are nested too deep are refused with their line, before they can end the process."""

import pytest

from scheduler import bad_input, document


@pytest.mark.parametrize("text", ["a: " + "[" * 100_000, "\n".join(f"{' ' * i}a:" for i in range(70)) + " 1"])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(bad_input.BadInput, match="nested more than 64 levels deep") as told:
        document.parse("f.yaml", text, bad_input.BadInput)
    assert told.value.line >= 1


def test_the_depth_that_is_allowed_is_read() -> None:
    text = "\n".join(f"{' ' * i}a:" for i in range(60)) + " 1"
    value = document.parse("f.yaml", text, bad_input.BadInput).value
    for _ in range(60):
        value = value["a"]
    assert value == 1
