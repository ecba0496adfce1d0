"""Generates `bild_dist/wire/pb` from `worker.proto`; with `--check` only says whether it is up to date."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("bild_dist/wire/pb")
NAMES = ("worker_pb2.py", "worker_pb2.pyi", "worker_pb2_grpc.py")


def generate(out: Path) -> None:
    """Writes the generated files below `out`, as the package that they import each other from."""
    include = Path(grpc_tools.__file__).parent / "_proto"
    code = protoc.main([
        "protoc",
        # The mapping makes protoc emit `from bild_dist.wire.pb import worker_pb2`: nothing to repair afterwards.
        f"-I{PACKAGE}={ROOT / 'proto'}",
        f"-I{include}",
        f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}",
        f"{PACKAGE}/worker.proto",
    ])  # fmt: skip
    if code != 0:
        sys.exit(code)


def stale() -> list[str]:
    """Names of the committed files that differ from what would be generated now."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        return [
            n for n in NAMES if _bytes(ROOT / PACKAGE / n) != _bytes(Path(folder) / PACKAGE / n)
        ]


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def main() -> int:
    """Generates, or checks. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit code 1 if stale")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    names = stale()
    if names:
        print(
            f"generated code is out of date ({', '.join(names)}): run `make proto`, "
            "which is `python proto/generate.py`",
            file=sys.stderr,
        )
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
