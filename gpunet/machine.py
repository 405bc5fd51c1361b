"""What this machine calls its parts."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    """The name of the CPU as Linux says it, or what Python knows of it; it may be empty."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
