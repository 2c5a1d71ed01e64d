"""What processes take from the machine, as the Linux kernel counts it: a server's memory, and everybody else's time."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SAMPLE_EVERY_S = 0.25


class ForeignLoad:
    """Measures, while it is open, the share of the machine taken by processes that are no part of the benchmark.

    The machine may be shared, and a figure taken while others compile is no figure: so it stands
    beside each. Virtual machines' stolen time counts too.
    """

    share = 0.0

    def __enter__(self) -> ForeignLoad:
        self._begin = (time.monotonic(), _machine_cpu_s(), _tree_cpu_s(os.getpid()))
        return self

    def __exit__(self, *_: object) -> None:
        begin_s, machine_s, own_s = self._begin
        wall_s = max(time.monotonic() - begin_s, 1e-3)
        foreign_s = (_machine_cpu_s() - machine_s) - (_tree_cpu_s(os.getpid()) - own_s)
        self.share = max(0.0, foreign_s / (wall_s * (os.cpu_count() or 1)))


def wait_for_quiet(patience_s: float, share: float = 0.15) -> float:
    """Waits until others take less than `share` of the machine, at most `patience_s`; gives the share at the end."""
    deadline_s = time.monotonic() + patience_s
    while True:
        with ForeignLoad() as foreign:
            time.sleep(1.0)
        if foreign.share < share or time.monotonic() >= deadline_s:
            return foreign.share


class RssWatch:
    """Samples a process's resident memory while it is open."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="rss-watch", daemon=True)
        #: Seconds since the start, bytes.
        self.samples: list[tuple[float, int]] = []

    def __enter__(self) -> RssWatch:
        self._begin_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(5)

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_EVERY_S):
            rss_bytes = _rss_bytes(self._pid)
            if rss_bytes is not None:
                self.samples.append((time.monotonic() - self._begin_s, rss_bytes))

    def between(self, start_s: float, end_s: float) -> float | None:
        """The mean over a stretch of time, in bytes."""
        chosen = [rss_bytes for at_s, rss_bytes in self.samples if start_s <= at_s <= end_s]
        return sum(chosen) / len(chosen) if chosen else None


def _machine_cpu_s() -> float:
    """Busy and stolen time of all cores."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def _tree_cpu_s(root: int) -> float:
    """Time of a process, of those it started, and of those that have ended and were waited for."""
    stats = {pid: fields for pid in _pids() if (fields := _stat(pid)) is not None}
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(pid)
    ticks, left = 0, [root]
    while left:
        pid = left.pop()
        left += children.pop(pid, [])
        if pid in stats:
            ticks += sum(int(field) for field in stats[pid][11:15])
    return ticks / _TICKS_PER_S


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Fields of `/proc/PID/stat` from the third on; the command's name before them may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _rss_bytes(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[21]) * _PAGE_BYTES if fields else None
