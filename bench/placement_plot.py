"""Draws how even rings are and how much moves, as plain SVG. Knows no ring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

_WIDTH: Final = 860
_HEIGHT: Final = 330
_TOP, _BOTTOM = 50, 280
_PANEL: Final = 380
_COLOURS: Final = {2: "#2f6f4f", 3: "#4c78a8"}


class Dot(NamedTuple):
    """One mesh and factor."""

    nodes: int
    factor: int
    zones: int
    balance: float
    moved: float


def draw(dots: Sequence[Dot]) -> str:
    """Return an SVG: balance on the left, movement on the right; sizes side by side, one dot for each mesh."""
    sizes = list(dict.fromkeys(dot.nodes for dot in dots))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">',
        "<style>text { font-size: 12px }</style>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for at, factor in enumerate(_COLOURS):
        left = 300 + 140 * at
        parts.append(f'<circle cx="{left}" cy="{_HEIGHT - 14}" r="4" fill="{_COLOURS[factor]}"/>')
        parts.append(f'<text x="{left + 10}" y="{_HEIGHT - 10}">factor {factor}</text>')
    for title, start, aim, values in (
        ("fullest member, over its fair share", 50, 1.10, [dot.balance for dot in dots]),
        ("moved when one comes or goes, over the least", 50 + _PANEL + 30, 1.15, [dot.moved for dot in dots]),
    ):
        parts += _panel(title, start, aim, list(zip(dots, values, strict=True)), sizes)
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, start: int, aim: float, found: Sequence[tuple[Dot, float]], sizes: Sequence[int]) -> list[str]:
    top_value = max(aim, *(value for _, value in found)) * 1.02
    column = (_PANEL - 40) / len(sizes)

    def y(value: float) -> float:
        return _BOTTOM - (value - 1) / (top_value - 1) * (_BOTTOM - _TOP)

    parts = [
        f'<text x="{start}" y="{_TOP - 22}" font-weight="bold">{title}</text>',
        f'<line x1="{start}" y1="{_BOTTOM}" x2="{start + _PANEL - 40}" y2="{_BOTTOM}" stroke="#888"/>',
        f'<path d="M{start} {y(aim):.1f} h{_PANEL - 40}" stroke="#c33" stroke-dasharray="4 3"/>',
    ]
    scale = sorted({1.0, aim, round(top_value / 1.02, 2)})
    parts += [f'<text x="{start - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{at:.2f}</text>' for at in scale]
    for at, nodes in enumerate(sizes):
        middle = start + (at + 0.5) * column
        parts.append(f'<text x="{middle:.1f}" y="{_BOTTOM + 16}" text-anchor="middle">{nodes} nodes</text>')
        here = [(dot, value) for dot, value in found if dot.nodes == nodes]
        for place, (dot, value) in enumerate(here):
            x = middle + ((place + 0.5) / len(here) - 0.5) * column * 0.8
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y(value):.1f}" r="3" fill="{_COLOURS[dot.factor]}" fill-opacity="0.7">'
                f"<title>{nodes} nodes, {dot.zones} zones, factor {dot.factor}: {value:.3f}</title></circle>"
            )
    return parts
