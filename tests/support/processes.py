"""Processes of this machine as Linux lists them."""

from __future__ import annotations

from pathlib import Path


def parents() -> dict[int, int]:
    """The parent of every process that has not ended, by its id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            found[int(entry.name)] = int(fields[1])
    return found


def descendants(pid: int) -> list[int]:
    """A process's children, their children and so on."""
    above, found = parents(), {pid}
    while more := {child for child, parent in above.items() if parent in found} - found:
        found |= more
    return sorted(found - {pid})


def born_at(pid: int) -> str:
    """When a process began, in the system's own count: another of that id began later. Empty: it has ended."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def title_of(pid: int) -> str:
    """How the system calls it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """What the system says of a process behind its name, its state first; nothing of one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return fields if fields[0] != "Z" else []
