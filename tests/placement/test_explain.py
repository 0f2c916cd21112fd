"""The story of a decision names every level and every true number."""

from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import engine, explain, placement, policy, scoring
from scheduler.snapshot import state
from tests.placement import fleets


def test_a_placement_tells_terms_runners_up_and_why_nothing_tighter() -> None:
    fleet = fleets.racks(3, 3, 2)
    snapshot, score = state.empty(fleet), fleets.compiled(fleet)
    snapshot.take(state.Grant(0, 0b1111, 1000))
    one = fleets.workers(3, gpus=4)
    story = explain.explain(snapshot, one, score)
    assert story.decision == engine.place(snapshot, one, score)
    assert isinstance(story.decision, placement.Placement)
    assert story.compared[0].domain == story.decision.domain == "b0/r1"
    assert dict(story.compared[0].terms).keys() == {"bandwidth", "nodes", "domains", "span"}
    nodes = [c for c in story.passed_over if c.level == "node"]
    assert len(nodes) == explain.MOST and all("holds 1 of 3 pods: GPUs for 1" in c.refusal for c in nodes)
    racks = {c.domain: c.refusal for c in story.passed_over if c.level == "rack"}
    assert racks.keys() == {"b0/r0", "b0/r2"} and "holds 2 of 3" in racks["b0/r0"]
    text = str(story)
    assert "placed: 3 of 3 pods on 3 nodes of rack b0/r1" in text and "chosen: rack b0/r1: bandwidth" in text
    assert "under policy test" in text


def test_a_refusal_is_told_with_what_every_domain_lacks() -> None:
    fleet = fleets.racks(2, 1)
    story = explain.explain(
        state.empty(fleet), fleets.workers(3, required="rack", gpus=4, cpu_milli=1000), fleets.compiled(fleet)
    )
    assert isinstance(story.decision, reasons.Rejection) and not story.compared
    racks = {c.domain: c.refusal for c in story.passed_over if c.level == "rack"}
    assert racks == {
        "b0/r0": "holds 2 of 3 pods: GPUs for 2, milli-CPU for 64",
        "b0/r1": "holds 1 of 3 pods: GPUs for 1, milli-CPU for 32",
    }
    assert f"refused: {story.decision}" in str(story)


def test_segments_and_roles_are_named() -> None:
    fleet = fleets.racks(2, 2)
    split = fleets.workers(3, gpus=1, segment=gangs.Segment(3, "node"), required="node")
    snapshot = state.empty(fleet)
    for row in range(4):
        snapshot.take(state.Grant(row, 0b0011, 1000))
    story = explain.explain(snapshot, split, fleets.compiled(fleet))
    assert any("segments, spread or a missing level leave 0 of 2" in c.refusal for c in story.passed_over)
    both = gangs.Gang("g", (split.roles[0], gangs.Role("other", 99, split.roles[0].request)))
    assert any(
        "of role worker" in c.refusal for c in explain.explain(snapshot, both, fleets.compiled(fleet)).passed_over
    )


def test_lone_pods_and_unknown_levels_have_a_story_too() -> None:
    fleet = fleets.racks(2)
    alone = explain.explain(state.empty(fleet), fleets.workers(1, gpus=1), fleets.compiled(fleet))
    assert alone.compared[0].level == "node" and "placed: 1 of 1 pods" in str(alone)
    assert len(alone.compared) == 2 and "runner-up 1: node" in str(alone)
    unknown = explain.explain(state.empty(fleet), fleets.workers(1, required="hall", gpus=1), fleets.compiled(fleet))
    assert "NoSuchLevel" in str(unknown) and not unknown.passed_over


def test_domains_beyond_the_beam_are_said_to_hold_the_gang() -> None:
    fleet = fleets.racks(2, 2, 2, 2, 2, 2)
    story = explain.explain(state.empty(fleet), fleets.workers(2, gpus=4), fleets.compiled(fleet))
    racks = [c.refusal for c in story.passed_over if c.level == "rack"]
    assert len(racks) == 4 and all(why.startswith("holds every role") for why in racks)


def test_the_terms_of_a_lone_pod_are_those_of_the_policy_and_add_up_to_its_score() -> None:
    fleet = fleets.racks(2)
    snapshot, pod = state.empty(fleet), fleets.workers(1, gpus=1)
    snapshot.take(state.Grant(1, 0b0001, 1000))
    score = scoring.compile_scoring(policy.ScoringPolicy(metadata=policy.Metadata(name="muster")), fleet)
    story = explain.explain(snapshot, pod, score)
    assert isinstance(story.decision, placement.Placement)
    chosen, other = story.compared
    assert chosen.domain == story.decision.domain == "n01"
    assert sum(term for _, term in chosen.terms) == dict(story.decision.terms)["cost"]
    assert "open" in dict(other.terms) and "open" not in dict(chosen.terms)
    assert f"chosen: node {chosen.domain}: {chosen.terms[0][0]} " in str(story)
