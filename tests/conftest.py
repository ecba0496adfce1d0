"""What holds for all tests."""

import os
from collections.abc import Iterator

import pytest

from tests.brokers import Broker, running

# Before torch is loaded, here and in every worker process: a tiny model's pass takes longer to share out among threads
# than to compute, the more so when other processes want the same cores.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", params=["nats", "rabbit", "redis"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    """A real broker, the same for all tests of its kind: each takes a prefix of its own."""
    with running(request.param, tmp_path_factory.mktemp(request.param)) as broker:
        yield broker
