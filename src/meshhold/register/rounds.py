"""What do the answers of several replicas say together? Knows neither how they came nor what an entry means."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from meshhold.model.ids import NodeId
from meshhold.model.stamp import ZERO, Stamp


class Answer(NamedTuple):
    """What one replica has accepted for a register: the ballot (`ZERO`: nothing) and the entry's stored form."""

    accepted: Stamp
    entry: bytes | None


NOTHING = Answer(ZERO, None)
"""The answer of a replica that has never accepted anything for the register."""


class Seen(NamedTuple):
    """The highest answer of a quorum. `chosen`: a quorum holds exactly it, so it can be relied on as it is."""

    highest: Answer
    chosen: bool


def judge(answers: Mapping[NodeId, Answer], has_quorum: Callable[[Collection[NodeId]], bool]) -> Seen | None:
    """Return what the answers of replicas show; None if those who gave them are no quorum.

    The highest accepted entry of a quorum of promises is the one to build on: all that was chosen is in its history.
    """
    if not has_quorum(answers):
        return None
    highest = max(answers.values(), key=lambda answer: answer.accepted)
    holders = {node for node, answer in answers.items() if answer.accepted == highest.accepted}
    return Seen(highest, has_quorum(holders))
