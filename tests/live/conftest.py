"""One site for all end-to-end tests of a session, and a team's namespace for each.

All tests run on the newest version of Kubernetes; those marked `floor` also on the oldest that Muster supports, and with
``MUSTER_FLOOR=1`` (`make test-live`) all of them do. ``MUSTER_KUBERNETES=1.34`` runs all on that version alone.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator, Iterator

import pytest

from scheduler.apiserver import client
from tests.live import site as sites
from tests.live import team as teams
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, versions

ONE = os.environ.get("MUSTER_KUBERNETES", "")
VERSIONS = [versions.kubernetes(ONE).version] if ONE else [versions.NEWEST, versions.FLOOR]
WHOLE = bool(ONE or os.environ.get("MUSTER_FLOOR"))
"""Whether all tests run on the floor too."""


@pytest.fixture(scope="session", params=VERSIONS)
def kubernetes_version(request: pytest.FixtureRequest) -> str:
    """The version of the clusters of a test."""
    return str(request.param)


@pytest.fixture(scope="session")
def live_site(kubernetes_version: str) -> Iterator[sites.Site]:
    """A control plane with simulated machines, the controllers of other projects, and Muster."""
    fixtures.require(real_nodes=False)
    with clusters.Cluster(clusters.Options(version=kubernetes_version)).start() as home:
        site = sites.of(home)
        site.start()
        yield site


@pytest.fixture
def site(live_site: sites.Site) -> sites.Site:
    for part in live_site.home.parts.dead():
        pytest.fail(f"{part.name} ended with code {part.popen.returncode} before this test:\n{part.tail()}")
    return live_site


@pytest.fixture
async def api(site: sites.Site) -> AsyncIterator[client.Client]:
    async with await client.Client.connect(site.home.kubeconfig) as connected:
        yield connected


@pytest.fixture
async def team(site: sites.Site, api: client.Client) -> AsyncIterator[teams.Team]:
    async with teams.Team.open(site, api) as opened:
        yield opened


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the logs and the last Events of the site to a test that failed."""
    report = yield
    if report.failed:
        for one in getattr(item, "funcargs", {}).values():
            if isinstance(one, sites.Site):
                report.sections += fixtures.story(one.home)
    return report


@pytest.hookimpl(tryfirst=True)  # before the groups are read by the distribution of tests over workers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, keep those of one cluster on one worker, and leave out what the floor need not run."""
    left_out = [item for item in items if here(item) and version_of(item) == versions.FLOOR and not wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if here(item) and item.path.name != "test_witness.py":
            home = "site" if "live_site" in getattr(item, "fixturenames", ()) else item.path.stem
            group = pytest.mark.xdist_group(f"live-{home}-{version_of(item)}")
            for mark in (pytest.mark.testbed, pytest.mark.slow, group):
                item.add_marker(mark)


def here(item: pytest.Item) -> bool:
    return item.path.parent.name == "live"


def version_of(item: pytest.Item) -> str:
    """Return the version on which a test runs, "" for one that does not say."""
    call = getattr(item, "callspec", None)
    return str(call.params.get("kubernetes_version", "")) if call else ""


def wanted(item: pytest.Item) -> bool:
    return WHOLE or item.get_closest_marker("floor") is not None
