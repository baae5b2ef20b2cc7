"""How much memory can be had: the machine's, and that of the container that we run in."""

from __future__ import annotations

from pathlib import Path


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that are free without swapping, on the machine and in a container; None where that is unknown."""
    groups = root / "sys/fs/cgroup"
    told = [
        _numbers(root / "proc/meminfo").get("MemAvailable:"),
        _rest(groups, "memory.max", "memory.current"),
        _rest(groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ]
    return min((number for number in told if number is not None), default=None)


def _rest(group: Path, limit: str, used: str) -> int | None:
    """What a control group may still take; files that it has read can be dropped."""
    try:
        most, now = int((group / limit).read_text()), int((group / used).read_text())
    except (OSError, ValueError):
        return None  # there is no limit
    return most - now + _numbers(group / "memory.stat").get("inactive_file", 0)


def _numbers(path: Path) -> dict[str, int]:
    """Lines ``name number [kB]`` of a file, in bytes; none if it cannot be read."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) * (1024 if len(line) > 2 else 1) for line in lines if len(line) > 1}
