"""How do the nodes of a mesh look to people? Takes the views of the control socket; asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from meshhold.cli.output import SHORT_LENGTH, duration_text, printable, size_text, table_lines

NodeView = dict[str, Any]
HEADERS: Final = ("ID", "NAME", "STATE", "ROUTE", "RTT", "ZONE", "CAPACITY", "RELIABLE", "VERSION", "LAST SEEN")


def roster_lines(nodes: Sequence[NodeView]) -> list[str]:
    """Return the table of the nodes, and a line for each that is suspected."""
    rows = [
        (
            node["id"][:SHORT_LENGTH],
            node["name"] + (" (this node)" if node["is_me"] else ""),
            node["state"],
            node["route"],
            rtt_text(node["rtt_ms"]),
            node["zone"] or "-",
            size_text(node["capacity"]) if node["capacity"] else "disk",
            "yes" if node["reliable"] else "no",
            node["version"] or "-",
            seen_text(node),
        )
        for node in nodes
    ]
    return table_lines(HEADERS, rows) + suspicion_lines(nodes)


def suspicion_lines(nodes: Sequence[NodeView]) -> list[str]:
    """Return who suspects whom, a sentence for each suspected node."""
    return [
        printable(f"{node['name']} ({node['id'][:SHORT_LENGTH]}) is suspected by {_suspecting(node, nodes)}")
        for node in nodes
        if node["suspected_by"]
    ]


def node_fields(node: NodeView) -> list[tuple[str, object]]:
    """Return everything about one node."""
    return [
        ("id", node["id"]),
        ("name", node["name"] + (" (this node)" if node["is_me"] else "")),
        ("state", node["state"]),
        ("route", node["route"]),
        ("round trip", rtt_text(node["rtt_ms"])),
        ("addresses", ", ".join(node["addresses"]) or "-"),
        ("zone", node["zone"] or "-"),
        ("capacity", size_text(node["capacity"]) if node["capacity"] else "what its disk has"),
        ("reliable", "yes" if node["reliable"] else "no: its copies do not count"),
        ("version", node["version"] or "-"),
        ("last seen", seen_text(node)),
        ("suspected by", _suspecting(node, [node]) or "nobody"),
    ]


def rtt_text(rtt_ms: float | None) -> str:
    """Return a round trip as people read it."""
    if rtt_ms is None:
        return "-"
    return f"{rtt_ms:.1f} ms" if rtt_ms < 10 else f"{rtt_ms:.0f} ms"


def seen_text(node: NodeView) -> str:
    """Return how long ago a node was heard of."""
    if node["is_me"]:
        return "-"
    if node["last_seen_s"] is None:
        return "never"
    return f"{duration_text(node['last_seen_s'])} ago" if node["last_seen_s"] >= 1 else "now"


def _suspecting(node: NodeView, nodes: Sequence[NodeView]) -> str:
    names = {other["id"][:SHORT_LENGTH]: other["name"] for other in nodes}
    return ", ".join(names.get(who, who) for who in node["suspected_by"])
