"""How every benchmark here reports: one JSON file with the figures and what they were measured
on.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def spread(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile and largest of some values."""
    return {
        "median": round(statistics.median(values), 4),
        "p99": round(statistics.quantiles(values, n=100)[98], 4),
        "max": round(max(values), 4),
        "count": len(values),
    }


def write(name: str, figures: dict[str, Any]) -> None:
    """Prints the figures and keeps them beside the benchmark."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE,
    ).stdout.strip()
    record = {
        "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
        "commit": commit,
        "date": date.today().isoformat(),
        "hardware": _processor(),
        "python": platform.python_version(),
        "versions": {n: metadata.version(n) for n in ("torch", "transformers", "pyzmq", "grpcio")},
        "figures": figures,
    }
    text = json.dumps(record, indent=2)
    print(text)
    (HERE / f"{name}.json").write_text(text + "\n")


def _processor() -> str:
    cores = len(os.sched_getaffinity(0))
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{cores} cores of {model}"
