"""What does each process of a target hold in memory? Reads /proc; knows nothing of what they do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.processes import session_pids


@dataclass(frozen=True, slots=True)
class Footprint:
    """One process: its command, and bytes resident, resident with shared pages divided, and resident at the most."""

    command: str
    rss: int
    pss: int
    peak: int


def footprints(leaders: frozenset[int]) -> list[Footprint]:
    """Return the processes of these sessions, by command; one that ends meanwhile is left out."""
    found = []
    for pid in session_pids(leaders):
        try:
            found.append(footprint(pid))
        except OSError:
            continue
    return sorted(found, key=lambda each: each.command)


def footprint(pid: int) -> Footprint:
    """Return one process. Errors: `OSError` when it is gone."""
    folder = Path(f"/proc/{pid}")
    fields = _kib_fields((folder / "smaps_rollup").read_text()) | _kib_fields((folder / "status").read_text())
    return Footprint(
        _command(folder), fields.get("Rss", 0) * 1024, fields.get("Pss", 0) * 1024, fields.get("VmHWM", 0) * 1024
    )


def _kib_fields(text: str) -> dict[str, int]:
    """Return the fields `name: number kB`."""
    fields = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            fields[name] = int(words[0])
    return fields


def _command(folder: Path) -> str:
    """Return the words of the command line that tell processes of one target apart."""
    words = [word.decode(errors="replace") for word in (folder / "cmdline").read_bytes().split(b"\0") if word]
    for word in words:
        if word.endswith("config.yaml"):
            return f"meshhold {Path(word).parent.name}"
    plain = [Path(word).name for word in words if not word.startswith("-")]
    return " ".join(plain[:2])
