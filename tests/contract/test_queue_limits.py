"""What is too large for a broker, and what comes twice: each job ends once, and alone."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from bild_dist import log
from bild_dist.orchestrator.queue import consumer
from bild_dist.orchestrator.queue.source import Outcome, Settled
from tests.brokers import LARGEST, Broker
from tests.queues import Echo, Running, body, dead, desk_of, opened, pulled, results, settings

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]
with_limits = pytest.mark.parametrize("broker", ["nats", "rabbit"], indirect=True)
only_nats = pytest.mark.parametrize("broker", ["nats"], indirect=True)
only_redis = pytest.mark.parametrize("broker", ["redis"], indirect=True)
that_refuse = pytest.mark.parametrize("broker", ["nats", "redis"], indirect=True)
BIG = LARGEST * 2 // 7
"""Letters that fit into a job as they are and into no dead letter, where each takes six bytes."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that ends waits for its last request: a short one, here."""
    monkeypatch.setattr(consumer, "POLL_S", 0.2)


def big(name: str, **record: Any) -> bytes:
    return json.dumps({"id": name, **record}, ensure_ascii=False).encode()


@with_limits
async def test_what_is_too_large_to_tell_ends_alone(broker: Broker) -> None:
    """A dead letter and a result that the broker does not take: both say so instead, and the jobs
    beside them are begun once and done.
    """
    config, writer = settings(broker.url, attempts=3), Echo(0.3)
    async with desk_of(config) as desk, Running(config, writer, 4) as running:
        await desk.submit("i1", body("i1", "x" * 20))
        await desk.submit("i2", body("i2", "y" * 20))
        # "bad": nobody writes it. A reply that is none is quoted in the result too.
        await desk.submit("bad", big("bad", prompt="bad" + "\u00e9" * BIG))
        await desk.submit("none", big("none", prompt="a", reply="\u00e9" * BIG))
        found = {r["id"]: r for r in await results(desk, 4)}
        assert [] == await desk.collect("default", 0.5)
    assert {"i1": "done", "i2": "done", "bad": "failed", "none": "failed"} == {
        name: result["status"] for name, result in found.items()
    }
    # RabbitMQ hands over anew what came by the channel that it closed; nothing is begun again.
    assert {"bad" + "\u00e9" * BIG, "x" * 20, "y" * 20} == set(writer.begun)
    assert 3 == len(writer.begun)
    tally = running.consumer.tally
    assert (2, 2) == (tally.done, tally.unprocessable)
    letters = await dead(config, "unprocessable")
    assert ["", ""] == [letter["job"] for letter in letters]
    assert max(len(json.dumps(letter)) for letter in letters) < 2000
    assert [] == await dead(config, "failed")


@that_refuse
async def test_one_id_may_have_two_replies(broker: Broker) -> None:
    """Two producers number their jobs from 1: each gets its own text."""
    config = settings(broker.url)
    async with desk_of(config) as desk, Running(config, Echo()):
        await desk.submit("1", body("1", "first", reply="A"), "A")
        await desk.submit("1", body("1", "second", reply="B"), "B")
        assert ["first"] == [r["text"] for r in await results(desk, 1, "A")]
        assert ["second"] == [r["text"] for r in await results(desk, 1, "B")]


@that_refuse
async def test_a_result_that_is_published_again_is_still_the_first(broker: Broker) -> None:
    """The broker had it and its word of that was lost: the job is done, and not done too late. A
    dead letter of somebody who is late is none.
    """
    config = settings(broker.url)
    async with desk_of(config) as desk:
        await desk.submit("j", body("j"))
        source, again = await opened(config), await opened(config)
        delivery = await pulled(source)
        mine = Outcome(word="j", reply="default", result=b'{"id": "j", "by": "me"}')
        other = Outcome(
            word="j", reply="default", result=b'{"id": "j"}', dead="failed", letter=b"{}"
        )
        assert Settled.FIRST is await source.settle(delivery, mine)
        for n, outcome, settled in ((1, mine, Settled.FIRST), (2, other, Settled.LATE)):
            # What it knows of the acknowledgement is lost too.
            await desk.submit(f"again{n}", body("j"))
            assert settled is await again.settle(await pulled(again), outcome)
        assert [{"id": "j", "by": "me"}] == await results(desk, 1)
        assert [] == await desk.collect("default", 0.3)
        assert [] == await dead(config, "failed")
        await source.close()
        await again.close()


async def test_a_job_that_was_submitted_twice_runs_once(broker: Broker) -> None:
    """Two messages with one job, and a text of many leases: it is begun once, and none is left."""
    config, writer = settings(broker.url, lease_s=0.6), Echo(0.1)
    async with desk_of(config) as desk, Running(config, writer, 3) as running:
        await desk.submit("j1", body("j", "x" * 30))
        await desk.submit("j2", body("j", "x" * 30))
        (result,) = await results(desk, 1)
        assert [] == await desk.collect("default", 1.5)
        tally = running.consumer.tally
    assert ("done", 1) == (result["status"], result["attempt"])
    assert 1 == len(writer.begun)
    assert (2, 1, 0, 0) == (tally.pulled, tally.done, tally.lost, tally.late)


async def test_no_prompt_is_in_the_log(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even at level debug, where some client libraries show all that they send."""
    root, ours = logging.getLogger(), logging.getLogger("bild_dist")
    monkeypatch.setattr(root, "handlers", [])
    before = (root.level, ours.level)
    log.configure("json", "debug")
    try:
        config = settings(broker.url)
        async with desk_of(config) as desk, Running(config, Echo()):
            await desk.submit("j", body("j", "xylophone"))
            assert ["xylophone"] == [r["text"] for r in await results(desk, 1)]
        assert root.isEnabledFor(logging.DEBUG)
    finally:
        log.configure("json")
        root.setLevel(before[0])
        ours.setLevel(before[1])
    assert "xylophone" not in capsys.readouterr().err


@only_redis
async def test_a_lost_job_is_found_behind_many_that_are_held(broker: Broker) -> None:
    """The server looks at ten jobs a request; more than that are being renewed by others."""
    config = settings(broker.url, lease_s=1.0)
    async with desk_of(config) as desk:
        for n in range(26):
            await desk.submit(f"j{n}", body(f"j{n}"))
        holder, other = await opened(config), await opened(config)
        held = [await pulled(holder) for _ in range(26)]
        ends = asyncio.get_running_loop().time() + 10
        found = None
        while found is None and asyncio.get_running_loop().time() < ends:
            for delivery in held[:-1]:
                assert await holder.renew(delivery)
            found = await other.pull(0.1)
        assert found is not None
        assert (held[-1].body, 2) == (found.body, found.attempt)
        await holder.close()
        await other.close()
