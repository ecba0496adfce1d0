"""What a measurement used and ran on, read from the kernel: memory, processor, versions, commit."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from bild_dist import __version__

_PACKAGES: Final = (
    "torch", "transformers", "pyzmq", "grpcio", "msgpack", "protobuf", "tokenizers", "sacrebleu",
)  # fmt: skip
_GPUS: Final = "driver/nvidia/gpus/*/information"


def forget_peak(pid: int) -> None:
    """Starts the peak of a process anew, so that loading its weights is not in it. Where the kernel
    does not allow it, the peak stays that of its whole life.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int | None:
    """The most memory that a process has held at once; None where it has gone, or nothing tells."""
    size = _value(Path(f"/proc/{pid}/status"), "VmHWM")
    return int(size.split()[0]) * 1024 if size else None


def hardware() -> dict[str, Any]:
    """The processor, the cores that may be used, the memory and the GPUs of this host."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": [_value(file, "Model") for file in sorted(Path("/proc").glob(_GPUS))],
    }


def versions() -> dict[str, str]:
    """Of Python, of this program and of what it stands on, as far as it is installed."""
    found = {"python": platform.python_version(), "bild-dist": __version__}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def commit() -> str | None:
    """The commit of this program, with `+` behind it where files differ from it; None outside a
    checkout.
    """
    here = Path(__file__).parent
    try:
        _, head, changes = (
            subprocess.run(
                ["git", *words], capture_output=True, text=True, check=True, cwd=here, timeout=10
            ).stdout.strip()
            for words in (
                # An environment may lie inside a checkout of something else.
                ("ls-files", "--error-unmatch", Path(__file__).name),
                ("rev-parse", "--short", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+" if changes else head


def environment(command: str) -> dict[str, Any]:
    """What a command ran on, as its file says it."""
    found = hardware()
    return {
        **versions(), "cpu": found["processor"], "hardware": found, "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "command": command,
    }  # fmt: skip


def _processor() -> str:
    return _value(Path("/proc/cpuinfo"), "model name") or platform.machine()


def _value(file: Path, key: str) -> str:
    """What a file of the kernel's says behind `key:`; empty where it says nothing."""
    with contextlib.suppress(OSError):
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""
