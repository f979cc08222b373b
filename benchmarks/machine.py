"""What the figures were measured on.

Diagnostics: OSError from the system.
"""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path


def facts(place: Path, kind: str) -> dict[str, str]:
    """Processor, kernel, Python, load, and the file system at place, which kind describes."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "processor": f"{len(os.sched_getaffinity(0))} x {models[0] if models else platform.machine()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file system": f"{kind}, {shutil.disk_usage(place).free >> 30} GiB free",
        "load": f"{os.getloadavg()[0]:.1f}",
    }
