"""kwok's configuration is made of the stages of its module."""

from pathlib import Path

import pytest
import yaml

from tests.testbed import kwok


def module(folder: Path) -> Path:
    """Write a module folder with stages as kwok lays them out."""
    for stage in kwok.STAGES:
        place = folder / "kustomize" / "stage" / stage
        place.mkdir(parents=True)
        names = [f"{stage.replace('/', '-')}-{i}" for i in range(2)]
        for name in names:
            text = yaml.safe_dump({"kind": "Stage", "metadata": {"name": name}, "spec": {"next": "{{ Now }}\n"}})
            (place / f"{name}.yaml").write_text(text)
        (place / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [f"{name}.yaml" for name in names]}))
    return folder


def test_all_listed_stages_come_into_one_file_after_the_options(tmp_path: Path) -> None:
    first, *stages = yaml.safe_load_all(kwok.configuration(module(tmp_path)))
    assert first["kind"] == "KwokConfiguration"
    assert first["options"]["nodePlayStageParallelism"] == kwok.WORKERS
    names = [stage["metadata"]["name"] for stage in stages]
    assert names == [f"{stage.replace('/', '-')}-{i}" for stage in kwok.STAGES for i in range(2)]
    assert all(stage["spec"]["next"] == "{{ Now }}\n" for stage in stages)


def test_a_module_of_another_layout_is_named(tmp_path: Path) -> None:
    folder = module(tmp_path)
    (folder / "kustomize" / "stage" / "pod" / "fast" / "kustomization.yaml").unlink()
    with pytest.raises(kwok.NoStages, match="pod/fast: no stages"):
        kwok.configuration(folder)


def test_leases_are_renewed_within_the_grace_period_of_the_controller_manager() -> None:
    assert kwok.LEASE_S / 4 * 1.04 < 50 * 0.9
