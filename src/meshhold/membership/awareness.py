"""How far may this node trust its own judgement? Lifeguard's local health; knows no member and no clock."""

from __future__ import annotations


class Awareness:
    """A score from 0 (healthy) to `multiplier_max` - 1. Timeouts of probes are multiplied by score + 1.

    Up: missing negative acknowledgements, having to refute, having been stalled. Down: an answered probe.
    """

    def __init__(self, multiplier_max: int) -> None:
        self._score_max = multiplier_max - 1
        self.score = 0

    @property
    def multiplier(self) -> int:
        """By how much probes are stretched."""
        return self.score + 1

    def apply(self, delta: int) -> None:
        """Add `delta`, staying within the bounds."""
        self.score = min(self._score_max, max(0, self.score + delta))
