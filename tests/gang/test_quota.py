"""The tenants' ledger by itself: what counts, who may start, who may reclaim, who has to give back."""

from scheduler.gang import config, quota
from scheduler.model import gang as gangs
from scheduler.model import reasons, request

ML, WEB = config.Quota("ml", 4, 2), config.Quota("web", 4)


def gang(name: str, tenant: str, pods: int = 1, **fields: object) -> gangs.Gang:
    pod = request.PodRequest(**({"gpus": 1} | fields))  # type: ignore[arg-type]
    return gangs.Gang(name, (gangs.Role("worker", pods, pod),), tenant=tenant)


def ledger(**used: int) -> quota.Ledger:
    """Return a ledger of `ML` and `WEB` with so many GPUs in use."""
    return quota.Ledger({"ml": ML, "web": WEB}, {tenant: 1000 * gpus for tenant, gpus in used.items()})


def test_what_counts_are_gpus_shares_of_them_and_a_whole_one_for_each_partition() -> None:
    assert quota.gpu_milli(gang("a", "ml", 3, gpus=2)) == 6000
    assert quota.gpu_milli(gang("a", "ml", 3, gpu_milli=400)) == 1200
    assert quota.gpu_milli(gang("a", "ml", 2, gpus=1, mig="1g.5gb")) == 2000
    assert quota.gpu_milli(gang("a", "ml", 2, gpus=0)) == 0


def test_charges_add_up_and_are_taken_back() -> None:
    one = ledger()
    one.charge(gang("a", "ml", 3), +1)
    one.charge(gang("b", "ml", 2), +1)
    assert one.used == {"ml": 5000}
    one.charge(gang("a", "ml", 3), -1)
    assert one.used == {"ml": 2000}


def test_without_quotas_everything_is_allowed() -> None:
    assert quota.Ledger({}).allows(gang("a", "nobody", 999))


def test_a_tenant_may_use_its_own_and_borrow_what_is_idle() -> None:
    assert ledger(ml=3).allows(gang("a", "ml"))
    assert ledger(ml=4).allows(gang("a", "ml", 2))
    assert not ledger(ml=4).allows(gang("a", "ml", 3))
    assert ledger(ml=4, web=2).allows(gang("a", "ml", 2))
    assert not ledger(ml=4, web=3).allows(gang("a", "ml", 2))
    assert ledger(ml=6, web=2).allows(gang("a", "web", 2)), "the nominal quota is never refused"
    assert not ledger(web=4).allows(gang("a", "web")), "web borrows nothing"
    assert not ledger(ml=6).allows(gang("a", "ml", gpu_milli=1)), "not a thousandth of a GPU beyond the limit"


def test_a_tenant_without_quota_runs_only_what_needs_no_gpu() -> None:
    assert ledger().allows(gang("a", "stranger", gpus=0))
    assert not ledger().allows(gang("a", "stranger"))


def test_a_refusal_counts_the_gpus_beyond_the_ceiling_and_says_whose_it_is() -> None:
    refused = ledger(ml=5).refusal(gang("a", "ml", 3))
    assert refused is not None
    assert (refused.reason, refused.nearest, refused.missing) == (reasons.Reason.QUOTA, "tenant ml", 2)
    assert not refused.permanent
    assert refused.detail == "uses 5 of 4+2 GPUs; 3 more exceed its quota"
    shared = ledger(ml=4, web=3).refusal(gang("a", "ml", gpus=2))
    assert shared is not None
    assert (shared.missing, shared.detail) == (1, "uses 4 of 4+2 GPUs; 2 more exceed what other tenants leave idle")
    part = ledger(ml=6).refusal(gang("a", "ml", gpu_milli=100))
    assert part is not None and part.missing == 1, "a part of a GPU that is missing is told as one"


def test_a_refusal_is_permanent_when_an_idle_fleet_would_not_help() -> None:
    assert not ledger(ml=1).refusal(gang("a", "ml", 6)).permanent  # type: ignore[union-attr]
    assert ledger(ml=1).refusal(gang("a", "ml", 7)).permanent  # type: ignore[union-attr]
    greedy = quota.Ledger({"ml": config.Quota("ml", 4, 100), "web": WEB})
    assert not greedy.allows(gang("a", "ml", 9))
    assert greedy.refusal(gang("a", "ml", 9)).permanent  # type: ignore[union-attr]
    greedy.charge(gang("b", "ml", 1), +1)
    assert not greedy.refusal(gang("a", "ml", 8)).permanent  # type: ignore[union-attr]


def test_who_stays_within_its_own_quota_may_reclaim() -> None:
    assert ledger(web=2, ml=6).entitled(gang("a", "web", 2))
    assert not ledger(web=2, ml=6).entitled(gang("a", "web", 3))
    assert ledger().entitled(gang("a", "web", 4))
    assert not ledger().entitled(gang("a", "stranger", gpus=0))


def test_the_newest_gangs_beyond_the_quota_are_what_was_borrowed() -> None:
    """ml has eight GPUs for its four: the newest go until four or fewer are left; web keeps what is its own."""
    running = [gang("d", "ml", 1), gang("w", "web", 4), gang("c", "ml", 2), gang("b", "ml", 3), gang("a", "ml", 2)]
    found = ledger(ml=8, web=4).borrowed(running)
    assert [one.name for one in found] == ["d", "c", "b"]
    assert ledger(ml=4).borrowed([gang("a", "ml", 4)]) == []
    assert [one.name for one in ledger(ml=5).borrowed(running)] == ["d"]


def test_all_that_a_tenant_without_quota_holds_is_borrowed() -> None:
    running = [gang("b", "stranger", 1), gang("a", "stranger", 1)]
    assert ledger(stranger=2).borrowed(running) == running
    assert ledger().borrowed([gang("idle", "stranger", gpus=0)]) == []
