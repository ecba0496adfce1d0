"""What a queue promises, on every broker: real ones, each a process of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bild_dist.orchestrator.queue import consumer, submit
from bild_dist.orchestrator.queue.job import word
from bild_dist.orchestrator.queue.source import Outcome, Settled
from tests.brokers import Broker
from tests.queues import (
    Echo,
    Running,
    body,
    dead,
    delete_consumer,
    desk_of,
    opened,
    pulled,
    results,
    settings,
)

# A broker takes its time to start where others want the same cores.
pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that ends waits for its last request: a short one, here."""
    monkeypatch.setattr(consumer, "POLL_S", 0.2)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (nobody tells of it)
            await asyncio.sleep(0.02)


async def test_jobs_become_results(broker: Broker) -> None:
    """Jobs that waited before there was any consumer are done too, each once, and a result has what
    `--json` prints with its status, its attempt and the digest of its text.
    """
    config, writer = settings(broker.url), Echo()
    async with desk_of(config) as desk:
        for n in range(5):
            await desk.submit(f"j{n}", body(f"j{n}", f"text {n}"))
        async with Running(config, writer, 2):
            found = await results(desk, 5)

    assert {f"j{n}" for n in range(5)} == {r["id"] for r in found}
    assert 5 == len(writer.begun) == len(found)
    one = next(r for r in found if r["id"] == "j3")
    assert [
        "id",
        "status",
        "attempt",
        "sha256",
        "text",
        "tokens",
        "sources",
        "finish_reason",
        "trace",
    ] == list(one)
    assert ("done", 1, "text 3") == (one["status"], one["attempt"], one["text"])
    assert hashlib.sha256(b"text 3").hexdigest() == one["sha256"]


async def test_a_consumer_holds_as_many_jobs_as_it_has_places(broker: Broker) -> None:
    """With one place one job is taken and three wait at the broker, for whoever else has a place."""
    config, writer = settings(broker.url), Echo(0.15)
    async with desk_of(config) as desk:
        for n in range(4):
            await desk.submit(f"j{n}", body(f"j{n}"))
        other = await opened(config)
        try:
            async with Running(config, writer):
                await until(lambda: writer.begun)
                # Another consumer gets one at once: it does not lie in a buffer of the first.
                delivery = await pulled(other)
                assert await other.backlog() <= 2
                await other.give_back(delivery)
                await other.close()
                assert 4 == len(await results(desk, 4))
        finally:
            await other.close()


async def test_a_long_job_runs_once(broker: Broker) -> None:
    """A job that takes several leases is renewed and not handed over a second time."""
    config, writer = settings(broker.url, lease_s=1), Echo(0.4)
    async with desk_of(config) as desk:
        await desk.submit("long", body("long", "a" * 10))
        async with Running(config, writer, 2), Running(config, writer, 2):
            found = await results(desk, 1)
            assert ["long"] == [r["id"] for r in found]
    assert ["a" * 10] == writer.begun


async def test_what_is_no_job_is_kept_apart_at_once(broker: Broker) -> None:
    """Bytes that cannot be read and jobs that can never be written end as dead letters after one
    attempt; where there is an id somebody is told, and neighbours are done.
    """
    config, writer = settings(broker.url), Echo()
    junk = [b"\xff\xfe junk", b"[1]", b'{"id": "none"}', body("bad", "bad one")]
    async with desk_of(config) as desk:
        for n, data in enumerate(junk):
            await desk.submit(f"junk{n}", data)
        await desk.submit("good", body("good"))
        async with Running(config, writer):
            found = {r["id"]: r for r in await results(desk, 3)}
            assert {"none", "bad", "good"} == set(found)
        letters = await dead(config, "unprocessable")
    assert ["bad one", "abc"] == writer.begun
    assert [1] * 4 == [letter["attempts"] for letter in letters]
    assert ("failed", 1, "InvalidRequest") == (
        found["bad"]["status"], found["bad"]["attempt"], found["bad"]["error"]["type"],
    )  # fmt: skip
    assert "done" == found["good"]["status"]
    assert any(letter["job"] == body("bad", "bad one").decode() for letter in letters)


async def test_a_job_that_always_fails_is_given_up(broker: Broker) -> None:
    """It is begun exactly as often as configured, with pauses, then kept as a dead letter; its one
    final result says so, and a neighbour is done meanwhile.
    """
    config, writer = settings(broker.url, attempts=3), Echo()
    async with desk_of(config) as desk:
        await desk.submit("f", body("f", "fail"))
        await desk.submit("good", body("good"))
        async with Running(config, writer) as running:
            found = await results(desk, 2)
            tally = running.consumer.tally
        (letter,) = await dead(config, "failed")
        assert [] == await dead(config, "unprocessable")
    assert ["good", "f"] == [r["id"] for r in found]
    assert ["fail", "abc", "fail", "fail"] == writer.begun
    assert ("failed", 3, "WorkerFault") == (
        found[1]["status"], found[1]["attempt"], found[1]["error"]["type"],
    )  # fmt: skip
    assert (3, "WorkerFault") == (letter["attempts"], letter["error"]["type"])
    assert (2, 1, 1) == (tally.retried, tally.failed, tally.done)


async def test_a_job_is_cancelled_by_name(broker: Broker) -> None:
    """One that is being written ends at once, one that waits when it is its turn; both have a result
    that says so, and names may have any characters.
    """
    config, writer = settings(broker.url), Echo(0.2)
    names = ["now/here *", "later.#>"]
    async with desk_of(config) as desk:
        for name in names:
            await desk.submit(word(name), body(name, "a" * 100))
        async with Running(config, writer) as running:
            await until(lambda: writer.begun)
            for name in reversed(names):
                await desk.cancel(word(name))
            found = await results(desk, 2)
            await until(lambda: running.consumer.tally.cancelled == 2)
    assert [(name, "cancelled") for name in names] == [(r["id"], r["status"]) for r in found]
    assert 1 == len(writer.begun)


async def test_tokens_come_while_they_are_written(broker: Broker) -> None:
    """Numbered, gathered to at most 20 messages a second, and complete where nothing was lost."""
    config, writer = settings(broker.url), Echo(0.01)
    prompt = "abcdefghij" * 8
    async with desk_of(config) as desk:
        found: list[dict[str, Any]] = []

        async def watch() -> None:
            async for data in desk.watch("j"):
                found.append(json.loads(data))  # noqa: PERF401 (read while it grows)

        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(watch())
            await asyncio.sleep(0.5)
            async with Running(config, writer):
                await desk.submit("j", body("j", prompt))
                await results(desk, 1)
            await until(lambda: "".join(m["text"] for m in found) == prompt)
            watcher.cancel()
    assert list(range(len(found))) == [m["seq"] for m in found]
    offset = 0
    for message in found:
        assert (offset, 1, "j") == (message["offset"], message["attempt"], message["id"])
        offset += len(message["tokens"])
    # A token each 10 ms at least, and a message each 50 ms at most, the first and the last apart.
    assert len(found) < len(prompt) / 2


async def test_a_drain_lets_jobs_end(broker: Broker) -> None:
    """Told to stop, a consumer pulls no more and ends what it has begun; that is clean."""
    config, writer = settings(broker.url), Echo(0.1)
    async with desk_of(config) as desk:
        for n in range(3):
            await desk.submit(f"j{n}", body(f"j{n}", "abcdefgh"))
        async with Running(config, writer) as running:
            await until(lambda: writer.begun)
            running.consumer.drain()
            assert await running.stopped()
        assert ["j0"] == [r["id"] for r in await results(desk, 1)]
        source = await opened(config)
        assert "j1" == json.loads((await pulled(source)).body)["id"]
        await source.close()


async def test_a_drain_gives_back_what_would_take_too_long(broker: Broker) -> None:
    """A job that cannot end in time is on the queue again at once, not after its lease, and has not
    used up an attempt.
    """
    config, writer = settings(broker.url, drain_s=0.1, lease_s=60), Echo(1.0)
    async with desk_of(config) as desk:
        await desk.submit("j", body("j", "a" * 50))
        async with Running(config, writer) as running:
            await until(lambda: writer.begun)
            running.consumer.drain()
            assert await running.stopped()
            assert 1 == running.consumer.tally.given_back
        source = await opened(config)
        delivery = await pulled(source)
        assert ("j", 1) == (json.loads(delivery.body)["id"], delivery.attempt)
        await source.close()


async def test_a_lost_consumer_s_job_goes_to_another(broker: Broker) -> None:
    """A connection that ends without a word: the job comes again, as its second attempt."""
    config = settings(broker.url, lease_s=1)
    async with desk_of(config) as desk:
        await desk.submit("j", body("j"))
        first, second = await opened(config), await opened(config)
        assert 1 == (await pulled(first)).attempt
        await first.close()
        assert 2 == (await pulled(second)).attempt
        await second.close()


async def test_the_first_final_result_is_the_only_one(broker: Broker) -> None:
    """A consumer that was frozen until its job was done elsewhere loses: the broker refuses its
    result, or has closed the channel that it would come by.
    """
    config = settings(broker.url, lease_s=1)
    async with desk_of(config) as desk:
        await desk.submit("j", body("j"))
        zombie, other = await opened(config), await opened(config)
        old = await pulled(zombie)
        if broker.kind == "rabbit":
            # What the broker does with the connection of a consumer that stands still.
            await old.handle.raw_message.channel.connection.close()
        new = await pulled(other)
        first = Outcome(word="j", reply="default", result=b'{"id": "j", "by": "other"}')
        late = Outcome(word="j", reply="default", result=b'{"id": "j", "by": "zombie"}')
        assert Settled.FIRST is await other.settle(new, first)
        assert not await zombie.renew(old) or broker.kind == "nats"
        expected = Settled.VOID if broker.kind == "rabbit" else Settled.LATE
        assert expected is await zombie.settle(old, late)
        assert ["other"] == [r["by"] for r in await results(desk, 1)]
        assert [] == await desk.collect("default", 0.3)
        if broker.kind != "rabbit":
            assert await other.has_result("default", "j")
        assert await other.pull(0.2) is None
        await zombie.close()
        await other.close()


async def test_results_may_have_a_queue_of_their_own(broker: Broker) -> None:
    """`reply` keeps the results of one producer apart; where nobody has made its queue they go to
    the common one instead of nowhere.
    """
    config, writer = settings(broker.url), Echo()
    async with desk_of(config) as desk:
        assert [] == await desk.collect("mine", 0.1)
        await desk.submit("a", body("a", reply="mine"))
        async with Running(config, writer):
            assert ["a"] == [r["id"] for r in await results(desk, 1, "mine")]
            if broker.kind == "rabbit":
                await desk.submit("b", body("b", reply="nobody"))
                assert ["b"] == [r["id"] for r in await results(desk, 1)]


async def test_a_batch_finds_its_own_results(broker: Broker, tmp_path: Path) -> None:
    """What `bild submit` does: each line has its result, though consumers were faster than it could
    listen and another producer's results lie there too; a line may hold any character.
    """
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [json.dumps({"id": n, "prompt": f"{n}\u2028"}, ensure_ascii=False) for n in range(6)]
    source.write_text("\n".join(lines), "utf-8")
    config, batch = settings(broker.url), submit.read(str(source))
    async with desk_of(config) as desk, Running(config, Echo(), 3) as running:
        await desk.submit("other", body("other"))
        with target.open("w+") as output:
            collected = submit.Collected(batch, output)
            await submit.submit(desk, batch, collected.missing)
            await until(lambda: running.consumer.tally.done == 7)
            await submit.collect(desk, collected)
        assert ["other"] == [r["id"] for r in await results(desk, 1)]
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert list(range(6)) == sorted(r["id"] for r in found)
    assert {f"{r['id']}\u2028" for r in found} == {r["text"] for r in found}


async def test_a_restart_of_the_broker_loses_nothing(broker: Broker) -> None:
    """Killed and started again in the middle of a job: the text is written once, the waiting jobs
    are done, and the consumer needs no hand.
    """
    config, writer = settings(broker.url, lease_s=3, stall_s=5), Echo(0.1)
    async with desk_of(config) as desk:
        for n in range(4):
            await desk.submit(f"j{n}", body(f"j{n}", f"{n}bcdefgh"))
        await desk.close()
        async with Running(config, writer):
            await until(lambda: writer.begun)
            await asyncio.to_thread(broker.restart)
            await desk.open()
            found = await results(desk, 4)
    assert {f"j{n}" for n in range(4)} == {r["id"] for r in found}
    assert 4 == len(found)
    assert {"done"} == {r["status"] for r in found}


async def test_what_somebody_deleted_is_made_anew(broker: Broker) -> None:
    """Without its consumer, its queue or its group a client hears nothing, in silence: the watchdog
    looks, declares what is missing and goes on.
    """
    config, writer = settings(broker.url, stall_s=0.5), Echo()
    async with desk_of(config) as desk, Running(config, writer) as running:
        await desk.submit("a", body("a"))
        await results(desk, 1)
        await delete_consumer(config)
        await until(lambda: running.consumer.tally.reconnects)
        await desk.submit("b", body("b"))
        assert "b" in {r["id"] for r in await results(desk, 1)}
