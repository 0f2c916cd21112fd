"""Promises about the source tree itself."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = re.compile(
    rb"/(?!tmp/nvidia-mps|root/etc/kueue)"  # where MPS puts its pipes in every container; a node's own root
    rb"(root|work|tmp|(home|Users)/[A-Za-z]+)/[A-Za-z0-9._-]+|--(extra-)?index-url|--find-links|pypi\.org|pythonhosted\.org|/simple/"
)


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name.decode() for name in listed.split(b"\0") if name]


def test_the_import_contracts_are_kept():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_tracked_file_names_a_path_of_some_machine_or_a_package_index():
    guilty = [
        f"{path.relative_to(ROOT)}: {found.group().decode()}"
        for path in tracked()
        if path.is_file() and path != Path(__file__) and (found := FORBIDDEN.search(path.read_bytes()))
    ]
    assert not guilty


def test_every_package_file_says_why_it_exists():
    silent = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix == ".py" and path.parts[len(ROOT.parts)] in ("scheduler", "simulator") and path.is_file()
        if (text := path.read_text(encoding="utf-8")).strip() and not text.lstrip().startswith('"""')
    ]
    assert not silent
