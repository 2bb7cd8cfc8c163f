"""Draws a results file. Run as a script by the interpreter that has matplotlib: `plot.py RESULTS.json FOLDER`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any, Final

_COLOURS: Final = {"meshhold": "#2f6f4f", "seaweedfs": "#4c78a8", "rclone": "#b8b8b8"}


def draw(results: dict[str, Any], folder: Path) -> None:
    """Write `bench.svg` and `bench.png`: rates on the left (logarithmic), p99 latencies on the right."""
    matplotlib: Any = importlib.import_module("matplotlib")  # not installed where the project's types are checked
    matplotlib.use("Agg")
    plt: Any = importlib.import_module("matplotlib.pyplot")
    rows = [row for row in results["rows"] if row["rounds"]]
    groups = list(dict.fromkeys((row["case"], row["concurrency"]) for row in rows))
    targets = [name for name in results["targets"] if any(row["target"] == name for row in rows)]
    figure, axes = plt.subplots(1, 2, figsize=(14, 1.5 + 0.45 * max(1, len(groups))), sharey=True)
    panels = (("rate", "requests per second (longer is better)"), ("p99_ms", "p99 in ms (shorter is better)"))
    for panel, (field, label) in zip(axes, panels, strict=True):
        for at, name in enumerate(targets):
            height = 0.8 / len(targets)
            found = {(row["case"], row["concurrency"]): row[field] for row in rows if row["target"] == name}
            places = [place + at * height for place, group in enumerate(groups) if group in found]
            values = [found[group] for group in groups if group in found]
            title = results["targets"][name]["title"]
            bars = panel.barh(places, values, height, label=title, color=_COLOURS.get(name))
            panel.bar_label(bars, labels=[_label(value) for value in values], padding=2, fontsize=7)
        panel.set_xscale("log")
        panel.margins(x=0.15)
        panel.set_xlabel(label)
    axes[0].set_yticks([place + 0.4 - 0.4 / max(1, len(targets)) for place in range(len(groups))])
    axes[0].set_yticklabels([f"{case} x{concurrency}" for case, concurrency in groups])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper right", ncols=len(targets))
    figure.suptitle(f"{results['machine']['started']} · {results['machine']['cpus']} CPUs · medians over rounds")
    figure.tight_layout()
    for kind in ("svg", "png"):
        figure.savefig(folder / f"bench.{kind}", dpi=120)


def _label(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
