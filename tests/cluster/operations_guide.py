"""Reads procedures out of the operator's guide and types them on real nodes.

A block of commands has lines `NAME$ COMMAND`, and below each what is to be seen, in which `…` stands for anything. Who
reads that looks again and again until a machine shows it, and so does whoever types here: of commands that change
something each is typed once.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.chunks_cluster import ChunkNode

GUIDE: Final = Path(__file__).parents[2] / "docs" / "operations.md"
GUIDE_VAULT: Final = "photos"
LOOKS: Final = ("node list", "ring plan", "ring show", "vault check", "vault repair", "vault show")
LOOK_EVERY_S: Final = 0.3
LOOK_S: Final = 90.0
TYPED_S: Final = 600.0
"""A drain takes two minutes for its leases; what it moves comes on top."""
_START: Final = "systemctl start meshhold"
_STOP: Final = "systemctl stop meshhold"
_QUESTION: Final = "[y/N]: "
_YES: Final = "y\n"  # a terminal shows what is typed behind the question
_HEADING: Final = re.compile(r"^#{2,4} (.+)$")
_COMMAND: Final = re.compile(r"^([a-z]+)\$ (.+)$")


@dataclass(frozen=True, slots=True)
class Step:
    """One command, the machine where it is typed, and the lines that are to be seen then."""

    node: str
    command: str
    shown: tuple[str, ...]

    @property
    def is_look(self) -> bool:
        """Tell whether the command changes nothing, so that it may be typed again."""
        return self.command.startswith(tuple(f"meshhold {look}" for look in LOOKS))


def read_blocks(section: str, vault: str, text: str | None = None) -> list[list[Step]]:
    """Return the blocks of commands below a heading of the guide, up to the next heading, for a vault of this name."""
    blocks: list[list[Step]] = []
    is_here = is_block = False
    for line in (GUIDE.read_text("utf-8") if text is None else text).splitlines():
        if is_block:
            if line == "```":
                is_block = False
            elif is_here:
                _add(blocks[-1], line.replace(GUIDE_VAULT, vault))
        elif line.startswith("```"):
            is_block = True
            if is_here:
                assert line == "```console", f"{section}: a block that is not typed by the tests: {line}"
                blocks.append([])
        elif heading := _HEADING.match(line):
            is_here = heading[1] == section
    assert blocks, f"the guide has no commands below {section!r}"
    return blocks


def _add(block: list[Step], line: str) -> None:
    if typed := _COMMAND.match(line):
        block.append(Step(typed[1], typed[2], ()))
    else:
        last = block.pop()
        block.append(Step(last.node, last.command, (*last.shown, line)))


def is_shown(expected: str, output: str) -> bool:
    """Tell whether a line of the output is as the guide says; spaces in a row count as one."""
    pattern = ".*".join(re.escape(" ".join(piece.split())) for piece in expected.split("…"))
    pattern = pattern.replace(".*", r"\s?.*\s?")
    return any(re.fullmatch(pattern, " ".join(line.split())) for line in output.splitlines())


class Operator:
    """Types the guide's commands. `desk` is the folder where that is done: what is carried between machines is there.

    `nodes` are the machines by name. Of each command how long it took is printed.
    """

    def __init__(self, desk: Path, nodes: Sequence[ChunkNode]) -> None:
        self.desk = desk
        self.nodes: Mapping[str, ChunkNode] = {node.name: node for node in nodes}
        desk.mkdir(exist_ok=True)

    def follow(self, steps: Sequence[Step]) -> None:
        """Do what the guide says, step by step; each must end well and show what the guide says it shows."""
        for step in steps:
            began_s = time.monotonic()
            self._do(step)
            print(f"{time.monotonic() - began_s:6.1f} s  {step.node}$ {step.command}")  # noqa: T201 - shown with a failure

    def _do(self, step: Step) -> None:
        node = self.nodes[step.node]
        if step.command in (_START, _STOP):
            (node.start if step.command == _START else node.stop)()
            return
        deadline_s = time.monotonic() + LOOK_S
        while True:
            done = self._type(node, step.command)
            output = done.stdout + done.stderr.replace(_QUESTION, f"{_QUESTION}{_YES}")
            missing = [line for line in step.shown if not is_shown(line, output)]
            if done.returncode == 0 and not missing:
                return
            is_late = not step.is_look or time.monotonic() > deadline_s
            assert not is_late, f"{step.node}$ {step.command}\nexit {done.returncode}\n{output}\nlacks: {missing}"
            time.sleep(LOOK_EVERY_S)

    def _type(self, node: ChunkNode, command: str) -> subprocess.CompletedProcess[str]:
        path = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
        return subprocess.run(
            ["bash", "-euc", path + command],
            env=node.environment(),
            cwd=self.desk,
            input=_YES,  # whoever is asked has read the guide
            capture_output=True,
            text=True,
            timeout=TYPED_S,
            check=False,
        )
