"""What all tests share: Hypothesis profiles and the folder of published traces."""

import os

os.environ.setdefault(
    "GRPC_ENABLE_FORK_SUPPORT", "0"
)  # before gRPC is loaded: its handlers abort children that only exec

from pathlib import Path

import hypothesis
import pytest

from tests.testbed.fixtures import (  # noqa: F401  fixtures and hooks of the testbed
    cluster,
    cluster_session,
    fleet_500,
    fleet_500_session,
    kubernetes_version,
    pytest_collection_modifyitems,
    pytest_runtest_makereport,
    real_nodes,
    real_session,
    space,
)

hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(scope="session")
def traces() -> Path:
    """Return the folder of the published traces: ``$MUSTER_TRACES``, or ``../shared/traces`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "traces"
    folder = Path(os.environ.get("MUSTER_TRACES", beside))
    if not folder.is_dir():
        pytest.skip(f"no published traces at {folder}; set MUSTER_TRACES to their folder")
    return folder
