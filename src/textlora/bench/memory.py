"""What this process holds, in bytes, and the most it has held since a moment."""

from __future__ import annotations

from pathlib import Path

import psutil

from textlora import runs

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def held() -> int:
    """Resident memory now."""
    return psutil.Process().memory_info().rss


def forget_peak() -> None:
    """Let the peak count from now on, where the system can: Linux (proc(5), clear_refs)."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return


def peak() -> int:
    """The most this process has held, since `forget_peak` where that works."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return runs.peak_rss_bytes()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
