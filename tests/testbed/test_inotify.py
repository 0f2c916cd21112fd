"""The limit is raised where it is low, and left alone where it is not."""

from pathlib import Path

import pytest

from tests.testbed import inotify


@pytest.mark.parametrize(("before", "after"), [(128, inotify.WANTED), (4096, 4096)])
def test_a_low_limit_is_raised(tmp_path: Path, before: int, after: int) -> None:
    file = tmp_path / "max_user_instances"
    file.write_text(f"{before}\n")
    assert inotify.raise_limit(file) == after == inotify.limit(file)


def test_a_limit_that_may_not_be_raised_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "max_user_instances"
    file.write_text("128\n")

    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    assert inotify.raise_limit(file) == 128
