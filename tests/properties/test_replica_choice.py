"""Which members keep an index: laws of the choice, whatever the members are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from meshhold.model.ids import NodeId
from meshhold.store.replica_choice import choose_replicas


@dataclass(frozen=True)
class Machine:
    id: NodeId
    zone: str
    reliable: bool


machines = st.lists(
    st.builds(Machine, st.sampled_from("abcdefgh").map(NodeId), st.sampled_from("xyz"), st.booleans()),
    unique_by=lambda machine: machine.id,
)
nodes = st.lists(st.sampled_from("abcdefghij").map(NodeId), unique=True, max_size=7)
wanted = st.integers(1, 5)


def fit(members: Sequence[Machine]) -> dict[NodeId, Machine]:
    """Return the reliable ones, or all where none is."""
    return {m.id: m for m in members if m.reliable} or {m.id: m for m in members}


@given(machines, nodes, wanted)
def test_as_many_as_wanted_or_as_there_are(members: list[Machine], current: list[NodeId], most: int) -> None:
    chosen = choose_replicas(members, current, most)
    if not members:
        assert chosen == current
        return
    assert len(chosen) == len(set(chosen)) == min(most, len(fit(members)))
    assert set(chosen) <= fit(members).keys()


@given(machines, nodes, wanted)
def test_whoever_keeps_it_stays_while_there_is_a_place(
    members: list[Machine], current: list[NodeId], most: int
) -> None:
    chosen = choose_replicas(members, current, most)
    keeping = [node for node in current if node in fit(members)]
    assert len(set(keeping) & set(chosen)) == min(most, len(keeping)) or not members


@given(machines, nodes, wanted, st.randoms(use_true_random=False))
def test_every_node_chooses_alike_and_a_second_time_the_same(
    members: list[Machine], current: list[NodeId], most: int, rng: object
) -> None:
    chosen = choose_replicas(members, current, most)
    shuffled = list(members)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types it as an object
    assert choose_replicas(shuffled, current, most) == chosen
    assert set(choose_replicas(members, chosen, most)) == set(chosen) or not members


@given(machines, wanted)
def test_a_first_choice_is_spread_over_as_many_zones_as_can_be(members: list[Machine], most: int) -> None:
    chosen = choose_replicas(members, [], most)
    zones = {m.zone for m in fit(members).values()}
    assert len({fit(members)[node].zone for node in chosen}) == min(len(chosen), len(zones))


@given(machines, nodes, wanted)
def test_a_place_is_given_to_the_zone_that_has_the_fewest(
    members: list[Machine], current: list[NodeId], most: int
) -> None:
    """No newcomer shares a zone while a zone with a free machine and two keepers less stands empty."""
    chosen = choose_replicas(members, current, most)
    known = fit(members)
    if not members:
        return
    count = Counter(known[node].zone for node in chosen)
    for new in set(chosen) - set(current):
        for free in known.keys() - set(chosen) - set(current):
            assert count[known[new].zone] <= count[known[free].zone] + 1
