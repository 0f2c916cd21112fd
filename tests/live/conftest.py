"""One site for all end-to-end tests of a session, and a team's namespace for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator

import pytest

from scheduler.apiserver import client
from tests.live import audit
from tests.live import site as sites
from tests.live import team as teams
from tests.testbed import cluster as clusters
from tests.testbed import fixtures


@pytest.fixture(scope="session")
def live_site(kubernetes_version: str) -> Iterator[sites.Site]:
    """A control plane with simulated machines, the controllers of other projects, and Muster.

    At the end everything that Muster decided in all tests is decided again from its logs.
    """
    fixtures.require(real_nodes=False)
    with clusters.Cluster(clusters.Options(version=kubernetes_version)).start() as home:
        site = sites.of(home)
        site.start()
        yield site
        print(audit.replayed(site.audit))


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder; all are on one worker, which has the one site."""
    for item in items:
        if item.path.parent.name == "live" and item.path.name != "test_witness.py":
            for mark in (pytest.mark.testbed, pytest.mark.slow, pytest.mark.xdist_group("live")):
                item.add_marker(mark)
