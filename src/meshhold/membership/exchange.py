"""What do two rosters have to tell each other? Parts of the digest that differ, in messages of bounded size.

A `Bucket` covers the ids after `after` up to and with `until` (empty: from the first, to the last), so that a part that
does not fit into one message is compared piece by piece, and what is missing in a piece is missing on the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from meshhold.membership.messages import ENTRIES_MAX, Bucket, size_bytes
from meshhold.membership.roster import Entry, Roster, beats

PIECE_SIZE_BYTES_MAX: Final = 8 * 1024
"""Small enough to overtake bulk on a link without hurting it; about 25 members."""


def answer_digest(roster: Roster, marks: Sequence[int]) -> list[Bucket]:
    """Return this node's entries in every part in which the other's marks differ."""
    differing = [index for index, mark in enumerate(marks) if mark != roster.marks[index]]
    buckets = roster.in_buckets(differing)
    return [piece for index, entries in buckets.items() for piece in _pieces(index, entries, final=False)]


def answer_bucket(roster: Roster, theirs: Bucket) -> list[Bucket]:
    """Return what the other lacks of the ids that its message covers; nothing if that message was an answer itself."""
    if theirs.final:
        return []
    known = {member.node: (member, state) for member, state in theirs.entries}
    lacking = [
        entry
        for entry in roster.in_buckets([theirs.index])[theirs.index]
        if theirs.covers(entry.member.node)
        and (entry.member.node not in known or beats((entry.member, entry.state), known[entry.member.node]))
    ]
    return _pieces(theirs.index, lacking, final=True) if lacking else []


def _pieces(index: int, entries: list[Entry], *, final: bool) -> list[Bucket]:
    """Cut entries into messages; without any there is one empty message, which asks for the other's."""
    entries.sort(key=lambda entry: entry.member.node)
    cuts, room = [0], PIECE_SIZE_BYTES_MAX
    for place, entry in enumerate(entries):
        size = size_bytes(entry.member)
        if place - cuts[-1] >= ENTRIES_MAX or (size > room and place > cuts[-1]):
            cuts.append(place)
            room = PIECE_SIZE_BYTES_MAX
        room -= size
    pieces = []
    for start, end in pairwise([*cuts, len(entries)]):
        after = entries[start - 1].member.node if start else ""
        until = entries[end - 1].member.node if end < len(entries) else ""
        lines = tuple((entry.member, entry.state) for entry in entries[start:end])
        pieces.append(Bucket(index, lines, final, after, until))
    return pieces
