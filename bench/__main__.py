"""The command line: `python -m bench` measures, `python -m bench profile` tells where MeshHold's time goes."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from bench.cases import CASES
from bench.failures import BenchError
from bench.profiling import PROFILED, run_profiles
from bench.run import Plan
from bench.session import EXTRAS, TARGETS, Options, run_session

_FULL = Plan(rounds=3, small_s=4, large_s=8)
_QUICK = Plan(rounds=2, small_s=1, large_s=4)


def main(words: Sequence[str]) -> int:
    """Run what the words ask for; return the exit code."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        if words[:1] == ["profile"]:
            return _profile(words[1:])
        return run_session(_options(words))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _leave(_number: int, _frame: object) -> NoReturn:
    """Leave by exception, so that servers are ended and folders removed."""
    sys.exit(143)


def _options(words: Sequence[str]) -> Options:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure S3 servers side by side.")
    parser.add_argument("--quick", action="store_true", help="two short rounds, small listings, no huge object")
    parser.add_argument(
        "--only", type=_words([*names, *EXTRAS]), help=f"comma-separated: {', '.join([*names, *EXTRAS])}"
    )
    parser.add_argument("--targets", type=_words(list(TARGETS)), default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--huge", action="store_true", help="the huge object also in a quick run")
    parser.add_argument("--huge-gib", type=float, default=5.0, help="its size (S3 allows 5 in one piece)")
    parser.add_argument("--rounds", type=int, help="how often each case is measured")
    parser.add_argument("--seconds", type=float, help="of one run of a small case; a large one takes twice as long")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for results (build/bench)")
    parser.add_argument("--work", type=Path, help="folder for the servers' data (a new one under ~/.cache)")
    found = parser.parse_args(words)
    base = _QUICK if found.quick else _FULL
    small_s = found.seconds or base.small_s
    plan = Plan(found.rounds or base.rounds, small_s, 2 * small_s if found.seconds else base.large_s)
    chosen = found.only or [*names, "pages", *([] if found.quick else ["huge"])]
    if found.huge and "huge" not in chosen:
        chosen.append("huge")
    return Options(plan, chosen, found.targets, found.quick, found.huge_gib, found.out, found.work)


def _profile(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench profile", description="Sample MeshHold's daemon under load.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each profile")
    parser.add_argument("--only", type=_words(list(PROFILED)), default=list(PROFILED), help=", ".join(PROFILED))
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for results (build/bench)")
    found = parser.parse_args(words)
    run_profiles(found.only, found.seconds, found.out)
    return 0


def _words(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    def words(text: str) -> list[str]:
        found = text.split(",")
        for word in found:
            if word not in allowed:
                raise argparse.ArgumentTypeError(f"{word!r} is not one of {', '.join(allowed)}")
        return found

    return words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
