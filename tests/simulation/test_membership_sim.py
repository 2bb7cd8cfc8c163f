"""Samples of the membership simulation, held to the aims that the long runs are held to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.simulation.membership_sim import (
    Seen,
    became,
    main,
    play_deaths,
    play_endurance,
    play_idle,
    play_join,
    play_news,
    play_split,
)
from tests.simulation.membership_world import World

from meshhold.membership.member import State
from meshhold.membership.messages import Action, Changed
from meshhold.membership.settings import Settings


def test_twenty_nodes_notice_a_death_in_time_and_all_know_within_ten_seconds() -> None:
    first_median, first_worst, *_, all_median, all_worst, _, back_worst = map(
        float, play_deaths(20, 0.0, seed=7, rounds=3)
    )
    assert first_median < 2
    assert first_worst < 2.5
    assert all_median < 8
    assert all_worst < 10
    assert back_worst < 5


def test_news_reach_twenty_nodes_within_three_seconds() -> None:
    _, worst, reached = play_news(20, 0.05, seed=7, rounds=3)
    assert float(worst) < 3
    assert reached == "100.0000%"


def test_news_reach_everybody_while_accusations_fill_every_message() -> None:
    """As at 2,000 nodes with a fifth lost: more is said about members than messages hold, and yet all get the news."""
    settings = replace(Settings(), gossip_size_bytes_max=900, piggyback_size_bytes_max=300, relays=1, repeats=1)
    _, worst, reached = play_news(60, 0.2, seed=7, rounds=2, settings=settings)
    assert float(worst) < 3
    assert reached == "100.0000%"


def test_few_healthy_nodes_are_suspected_where_a_fifth_of_all_messages_is_lost() -> None:
    """Each of 12 nodes begins two probes in a second, of which one in 104 fails for lost messages alone."""
    world = World(12, seed=7, loss=0.2)
    world.boot_all_acquainted()
    suspected: set[tuple[str, int]] = set()

    def watch(_now_s: float, _number: int, action: Action) -> None:
        if isinstance(action, Changed) and action.now is State.SUSPECT:
            suspected.add((action.member.node, action.member.incarnation))

    world.watch = watch
    world.run(30)
    assert 0 < len(suspected) < 20


def test_idle_traffic_is_small_and_does_not_grow_with_the_mesh() -> None:
    small, large = (float(play_idle(size, seed=7, seconds=40.0)[2].replace(",", "")) for size in (10, 40))
    assert large < 2000
    assert large < 1.1 * small


def test_a_split_mesh_becomes_whole_by_itself() -> None:
    apart, whole_s = play_split(12, 0.05, seed=7)
    assert apart == "yes"
    assert float(whole_s) < 15


def test_nodes_that_start_at_one_moment_find_each_other() -> None:
    assert float(play_join(12, seed=7)[0]) < 5


def test_no_healthy_node_is_declared_dead_for_the_starved_ones() -> None:
    endurance = play_endurance(8, 0.05, 0.25, hours=0.02, seed=7)
    assert endurance.false_deaths == 0
    assert endurance.starved_deaths > 0, "the starved must be worth testing"


def test_one_way_of_a_broken_switch_is_survived_through_relays() -> None:
    """Two nodes that cannot reach each other, both reached by all others, stay alive."""
    world = World(6, seed=7)
    world.boot_all_acquainted()
    changes: list[Action] = []
    world.watch = lambda _now_s, _number, action: changes.append(action)
    world.block(1, 2)
    world.run(120)
    assert [each for each in changes if isinstance(each, Changed) and each.now is State.DEAD] == []


def test_the_wire_form_changes_nothing() -> None:
    traces = []
    for codec in (False, True):
        world = World(5, seed=7, loss=0.05, codec=codec)
        world.boot_all_acquainted()
        trace: list[tuple[float, int, Action]] = []
        world.watch = lambda now_s, number, action, trace=trace: trace.append((now_s, number, action))  # type: ignore[misc] # bound now
        world.run(5)
        world.crash(2)
        seen = Seen(4, became(2, State.DEAD), world.now_s)
        world.run(15)
        for entry in trace:
            seen(*entry)
        assert seen.is_done()
        traces.append(trace)
    assert traces[0] == traces[1]


def test_a_seed_repeats_its_tables_to_the_letter(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for _ in range(2):
        main(["--nodes", "5", "--loss", "5", "--seed", "3", "--only", "join,split"])
        printed.append([line for line in capsys.readouterr().out.splitlines() if not line.startswith("(")])
    assert printed[0] == printed[1]
    assert printed[0][0] == "membership simulation, seed 3"
