"""The compiled tree says what networkx says about the fabric."""

import networkx as nx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import fabric
from scheduler.snapshot import topology, tree
from tests.model import strategies


@given(strategies.fabrics())
def test_intervals_are_subtrees_and_their_machines(source: fabric.Fabric) -> None:
    compiled = tree.compile_tree(source)
    order = [machine.name for machine in source.nodes()]
    assert [compiled.names[v] for v in compiled.vertex] == order
    for i, name in enumerate(compiled.names):
        below = {name, *nx.descendants(source.graph, name)}
        assert set(compiled.names[i : compiled.end[i]]) == below
        leaves = order[compiled.first_node[i] : compiled.last_node[i]]
        assert leaves == [machine for machine in order if machine in below]


@given(strategies.fabrics())
def test_parents_levels_and_ancestors_are_those_of_the_graph(source: fabric.Fabric) -> None:
    compiled = tree.compile_tree(source)
    for i, name in enumerate(compiled.names):
        above = source.parent(name)
        assert (None if compiled.parent[i] < 0 else compiled.names[compiled.parent[i]]) == above
        assert compiled.levels[compiled.level[i]] == source.level(name)
    for n, machine in enumerate(source.nodes()):
        for level, name in enumerate(compiled.levels):
            found = compiled.ancestor[level, n]
            assert (None if found < 0 else compiled.names[found]) == source.ancestor(machine.name, name)


@given(strategies.fabrics(), st.data())
def test_sums_are_those_over_the_machines_below(source: fabric.Fabric, data: st.DataObject) -> None:
    compiled = tree.compile_tree(source)
    count = len(compiled.vertex)
    values = data.draw(st.lists(st.integers(-1000, 1000), min_size=count, max_size=count))
    sums = compiled.sums(np.array(values, dtype=np.int64))
    by_name = {machine.name: value for machine, value in zip(source.nodes(), values, strict=True)}
    for i, name in enumerate(compiled.names):
        below = {name, *nx.descendants(source.graph, name)}
        assert sums[i] == sum(value for machine, value in by_name.items() if machine in below)


@given(strategies.fabrics())
def test_levels_are_found_by_name_and_partition_the_vertices(source: fabric.Fabric) -> None:
    compiled = tree.compile_tree(source)
    assert [compiled.level_index(name) for name in source.levels] == list(range(len(source.levels)))
    assert compiled.level_index("galaxy") is None
    found = np.concatenate([compiled.domains_at(level) for level in range(len(compiled.levels))])
    assert sorted(found.tolist()) == list(range(len(compiled.names)))


@given(strategies.fabrics())
def test_topologies_copy_the_capacities_of_the_machines(source: fabric.Fabric) -> None:
    fleet = topology.compile_topology(source)
    for n, machine in enumerate(source.nodes()):
        assert fleet.nodes[n] is machine
        assert fleet.row[machine.name] == n
        assert fleet.gpus[n] == len(machine.gpus) == int(fleet.all_gpus[n]).bit_count()
        assert (fleet.cpu_milli[n], fleet.memory_mib[n]) == (machine.cpu_milli, machine.memory_mib)
        assert (fleet.nics[n], fleet.max_pods[n]) == (len(machine.nics), machine.max_pods)
        assert fleet.shapes[fleet.shape[n]].gpus == len(machine.gpus)
    assert fleet.total_gpus == sum(len(machine.gpus) for machine in source.nodes())
    assert fleet.width == max([1, *(len(machine.gpus) for machine in source.nodes())])


@given(strategies.fabrics(), st.randoms(use_true_random=False))
def test_ties_go_by_name_whatever_the_order_of_the_fleet(source: fabric.Fabric, random: object) -> None:
    fleet = topology.compile_topology(source)
    by_tie = sorted(range(len(fleet.nodes)), key=lambda n: int(fleet.tie[n]))
    assert [fleet.nodes[n].name for n in by_tie] == sorted(fleet.row)
    given_order = topology.compile_topology(source, tie=list(range(len(fleet.nodes)))[::-1])
    assert given_order.tie.tolist() == list(range(len(fleet.nodes)))[::-1]
