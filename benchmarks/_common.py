"""What all benchmarks share: the machine they ran on, percentiles, and the one JSON object."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGES = ("lancedb", "pylance", "pyarrow", "numpy", "torch", "sentence-transformers")


def aim(what: str, value: float | None, op: str, bound: float | None) -> dict[str, Any]:
    """Return one line of the ``aims`` list; a value that could not be measured is None.

    A bound of None: there is no aim on this machine, and the figure is told.
    """
    rounded = None if value is None else round(float(value), 4)
    return {"what": what, "value": rounded, "op": op, "aim": bound}


def machine() -> dict[str, Any]:
    """Return what figures depend on: processor, cores, memory, load, versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_usable": _usable_cores(),
        "memory_gb": _memory_gb(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
    }


def percentile(values: Sequence[float], q: float) -> float:
    """Return the ``q``-th percentile (0 to 100)."""
    return float(np.percentile(np.asarray(values, dtype=float), q))


def latency_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return ``{"p50_ms", "p95_ms"}`` of durations in seconds."""
    return {f"p{q}_ms": round(1e3 * percentile(seconds, q), 3) for q in (50, 95)}


def report(name: str, aims: Iterable[Mapping[str, Any]], **figures: Any) -> None:
    """Print the one JSON object of a benchmark: the aims with their figures, then all figures."""
    document = {
        "benchmark": name,
        "aims": [dict(line) for line in aims],
        **figures,
        "machine": machine(),
    }
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def progress(text: str) -> None:
    """Say on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
