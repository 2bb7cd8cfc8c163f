"""In which order is what measured? Short rounds, the targets taking turns, so that a machine's mood meets all alike."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cases import Case
from bench.contender import Contender
from bench.failures import BenchError
from bench.load import Measurement


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long: seconds of one run of a small and of a large case."""

    rounds: int
    small_s: float
    large_s: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one case on one target: what was measured, or why not."""

    case: str
    concurrency: int
    target: str
    round: int
    measurement: Measurement | None
    failure: str


def run_cases(contenders: Sequence[Contender], cases: Sequence[Case], plan: Plan, bodies: Path) -> list[Sample]:
    """Prepare and measure every case on every contender; a failure becomes a sample that says why."""
    broken = _prepare(contenders, cases)
    samples: list[Sample] = []
    for turn in range(plan.rounds):
        first = turn % len(contenders)  # who begins changes, since the first may find the disk quieter
        order = [*contenders[first:], *contenders[:first]]
        for case in cases:
            for concurrency in case.concurrencies:
                _say(f"round {turn + 1}/{plan.rounds}  {case.name} x{concurrency}")
                run = _Run(case, concurrency, turn, plan.large_s if case.is_large else plan.small_s, bodies)
                samples += [run.on(contender, broken) for contender in order]
    return samples


@dataclass(frozen=True, slots=True)
class _Run:
    case: Case
    concurrency: int
    turn: int
    seconds: float
    bodies: Path

    def on(self, contender: Contender, broken: Mapping[tuple[str, str], str]) -> Sample:
        """Measure one contender, unless it could not be prepared."""
        name = contender.target.name
        measured, failure = None, broken.get((name, self.case.name), "")
        if not failure:
            os.sync()  # or one target would wait for the disk while another's unsynced writes go there
            label = f"{self.turn:03}-{self.concurrency:02}"
            try:
                measured = contender.measure(self.case, self.concurrency, self.seconds, label, self.bodies)
            except BenchError as error:
                failure = str(error)
        return Sample(self.case.name, self.concurrency, name, self.turn, measured, failure)


def _prepare(contenders: Sequence[Contender], cases: Sequence[Case]) -> dict[tuple[str, str], str]:
    """Prepare all; return why a (target, case) cannot be measured."""
    broken = {}
    for contender in contenders:
        for case in cases:
            _say(f"preparing {contender.target.name} for {case.name}")
            try:
                contender.prepare(case)
            except BenchError as error:
                broken[contender.target.name, case.name] = str(error)
    return broken


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
