"""What have fellows in the partitions that differ? Asks few of them, about many partitions at once; moves nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from meshhold.model.ids import ChunkId, NodeId
from meshhold.replication.chunks.bulk import PARTITIONS_MAX
from meshhold.replication.chunks.chunk_wire import DIGEST_SIZE, IDS_MAX
from meshhold.replication.repair.transfers import Pass, Transfers
from meshhold.replication.tasks import open_tasks

_EMPTY: Final = bytes(DIGEST_SIZE)
"""The digest of a partition without chunks."""

Told = dict[NodeId, dict[ChunkId, float]]
"""What each of some fellows has in one partition, and since when."""


class Differing(NamedTuple):
    """A partition, and the fellows that have something else in it than this node."""

    partition: int
    fellows: Sequence[NodeId]


@dataclass(slots=True)
class _Question:
    """What is in a partition of which these nodes have the same digest? One of `left` is asked."""

    partition: int
    alike: list[NodeId]
    left: list[NodeId]


def next_group(work: Pass, differing: Iterator[Differing]) -> list[Differing]:
    """Take as many partitions as one question names, and one list of what is here holds; none at the end."""
    group: list[Differing] = []
    names = 0
    for each in differing:
        group.append(each)
        names += work.mine.counts[each.partition]
        if len(group) == PARTITIONS_MAX or names >= IDS_MAX:
            break
    return group


async def ask_names(transfers: Transfers, work: Pass, group: Sequence[Differing]) -> dict[int, Told]:
    """Return what fellows have in the first of these partitions, which are in order: at least one, as answers hold.

    Of fellows with equal digests one is asked for all, and those that have nothing are not asked: else a node that lost
    its disk would be busy with telling so while it fetches. Who does not answer is left out.
    """
    told: dict[int, Told] = {}
    questions: list[_Question] = []
    for partition, fellows in group:
        alike: dict[bytes, list[NodeId]] = defaultdict(list)
        for node in fellows:
            alike[work.told[node].digests[partition]].append(node)
        told[partition] = {node: {} for node in alike.pop(_EMPTY, ())}
        questions += [_Question(partition, nodes, list(nodes)) for nodes in alike.values()]
    beyond: set[int] = set()
    while questions:
        questions = await _ask_all(transfers, work, questions, told, beyond)
    return {partition: fellows for partition, fellows in told.items() if partition not in beyond}


async def _ask_all(
    transfers: Transfers, work: Pass, questions: list[_Question], told: dict[int, Told], beyond: set[int]
) -> list[_Question]:
    """Ask a node for each question; return those that failed. `beyond` gets the partitions that no answer had room for.

    Answers go to `told`.
    """
    failed: list[_Question] = []
    by_node: dict[NodeId, list[_Question]] = defaultdict(list)
    for question in questions:
        askable = [node for node in question.left if work.may_ask(node)]
        if askable:
            question.left.remove(askable[0])
            by_node[askable[0]].append(question)

    async def ask(node: NodeId, asked: list[_Question]) -> None:
        partitions = [question.partition for question in asked]
        found = await transfers.ask(work, node, lambda peer: peer.names_in(work.vault, work.view.bits, partitions))
        if found is None:
            failed.extend(asked)
            return
        for question, names in zip(asked, found, strict=False):
            held = {each.chunk: each.touched_s for each in names}
            told[question.partition].update(dict.fromkeys(question.alike, held))
        beyond.update(partitions[len(found) :])

    async with open_tasks() as nursery:
        for node, asked in by_node.items():
            nursery.start_soon(ask, node, asked)
    return sorted(failed, key=lambda question: question.partition)
