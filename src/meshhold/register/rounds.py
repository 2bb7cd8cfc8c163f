"""What do the answers of several replicas say together? Knows neither how they came nor what an entry means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from meshhold.model.stamp import ZERO, Stamp


class Answer(NamedTuple):
    """What one replica has accepted for a register: the ballot (`ZERO`: nothing) and the entry's stored form."""

    accepted: Stamp
    entry: bytes | None


NOTHING = Answer(ZERO, None)
"""The answer of a replica that has never accepted anything for the register."""


class Seen(NamedTuple):
    """The highest answer of a majority. `chosen`: a majority holds exactly it, so it can be relied on as it is."""

    highest: Answer
    chosen: bool


def majority_of(replicas: int) -> int:
    """Return the least number of replicas of which any two sets share one."""
    return replicas // 2 + 1


def judge(answers: Sequence[Answer], replicas: int) -> Seen | None:
    """Return what `answers` of distinct replicas, out of `replicas` in all, show; None if they are no majority.

    The highest accepted entry of a majority of promises is the one to build on: all that was chosen is in its history.
    """
    majority = majority_of(replicas)
    if len(answers) < majority:
        return None
    highest = max(answers, key=lambda answer: answer.accepted)
    holders = sum(answer.accepted == highest.accepted for answer in answers)
    return Seen(highest, holders >= majority)
