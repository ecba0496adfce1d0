"""The transports that the contract is tested on."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["inproc", "grpc", "zmq", "zmq+ipc"])
def listen(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address that nobody uses, on each transport."""
    where = {
        "inproc": f"inproc://{tmp_path}",
        "grpc": "grpc://127.0.0.1:0",
        "zmq": "zmq://127.0.0.1:0",
        "zmq+ipc": f"zmq+ipc://{tmp_path}/s",
    }
    return where[request.param]
