"""The life of a server: clients that go away or do not read, workers that are lost, the end."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from functools import partial
from typing import Any

import httpx
import pytest

from bild_dist.app import inproc
from bild_dist.config import Config, WorkerConfig
from bild_dist.errors import WorkerUnavailable
from bild_dist.messages import Draft, Verify
from bild_dist.orchestrator.http import texts as http_texts
from bild_dist.orchestrator.keeping import keeping
from bild_dist.types import Role
from bild_dist.workers.__main__ import load
from bild_dist.workers.lifecycle import Worker
from tests.serving import Served, serving

HELLO = {"prompt": "Hello", "max_tokens": 4}
LONG = {"prompt": "Hello", "max_tokens": 1500}
JSON = "Content-Type: application/json"


async def ask(served: Served, body: dict[str, Any], buffer: int = 0) -> Any:
    """A request by hand, over a socket whose receive buffer may be small."""
    host, port = served.address.removeprefix("http://").split(":")
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: {len(data)}\r\n\r\n"
    await asyncio.get_running_loop().sock_sendall(sock, head.encode() + data)
    return sock


async def until(what: Any) -> None:
    """Turns the loop until something holds; the test's time limit is the bound."""
    while not what():  # noqa: ASYNC110 (nobody tells)
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_ends_its_text(stream: bool) -> None:
    """At any step, streamed or not, whole or with several texts: the texts are closed at once, and no
    slot and no place stays taken. Thirty clients leave at random moments.
    """
    dice = random.Random(7)
    async with serving("seed=1&end=0&ms=1", concurrency=4, queue=8) as served:
        for _ in range(30):
            body = {**LONG, "stream": stream, "n": dice.choice([1, 3]), "temperature": 1.0}
            sock = await ask(served, body)
            await asyncio.sleep(dice.random() * 0.03)
            sock.close()
        await served.drained()
        assert 200 == (await served.post(HELLO)).status_code


async def test_a_worker_stops_within_a_step_of_a_disconnect() -> None:
    """Once the server has seen that the client is gone no command goes to a worker, and passes under
    way end with the one that runs.
    """
    async with serving("seed=1&end=0&ms=5") as served:
        large = served.decoder.workers[Role.LARGE]
        sent: list[object] = []
        post = large.post

        def watched(message: Any) -> None:
            sent.append(message)
            post(message)

        large.post = watched  # type: ignore[method-assign]
        sock = await ask(served, {**LONG, "stream": True})
        await until(lambda: any(isinstance(message, Verify) for message in sent))
        sock.close()
        await until(lambda: served.house.admission.texts == 0)
        after = len(sent)
        await served.drained()
        assert not [m for m in sent[after:] if isinstance(m, Draft | Verify)]


async def test_a_client_that_does_not_read_delays_nobody() -> None:
    """Its text is written to the end and its place is free again while what it has not taken waits;
    others are served meanwhile. It can still have all of it.
    """
    async with serving("seed=1&end=0", concurrency=2, queue=0) as served:
        body = {**LONG, "max_tokens": 800, "stream": True, "bild": {"tokens": True, "events": True}}
        socks = [await ask(served, body, buffer=4096) for _ in range(2)]
        await until(lambda: served.house.admission.texts == 2)
        await until(lambda: served.house.admission.texts == 0)
        assert 2 == served.house.admission.requests
        assert 200 == (await served.post(HELLO)).status_code
        for sock in socks:
            answer = b""
            while b"data: [DONE]" not in answer[-200:]:
                answer += await asyncio.get_running_loop().sock_recv(sock, 65536)
            sock.close()
        await served.drained()


async def test_a_client_that_reads_no_more_is_dropped() -> None:
    """After `stall` seconds in which it has taken nothing; its text is closed with it."""
    async with serving("seed=1&end=0", stall=0.3) as served:
        body = {**LONG, "stream": True, "bild": {"tokens": True, "events": True}}
        sock = await ask(served, body, buffer=4096)
        await until(lambda: served.house.admission.requests == 1)
        await until(lambda: served.house.admission.requests == 0)
        sock.close()
        await served.drained()


async def test_a_client_too_far_behind_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its share of memory grows beyond a bound, and not only after a time."""
    monkeypatch.setattr(http_texts, "BEHIND", 100)
    async with serving("seed=1&end=0", stall=60) as served:
        body = {**LONG, "stream": True, "bild": True, "max_tokens": 2000}
        sock = await ask(served, body, buffer=4096)
        await until(lambda: served.house.admission.requests == 1)
        await until(lambda: served.house.admission.requests == 0)
        sock.close()
        await served.drained()


async def test_health_is_the_truth_about_both_models() -> None:
    """503 as soon as a worker is lost, with the one that is; requests get 503 meanwhile. Then the
    pair is opened again and serves as before.
    """
    async with serving() as served:
        client = served.client
        expected = (await served.post(HELLO)).json()["choices"][0]["text"]
        good = await client.get("/health")
        assert 200 == good.status_code
        assert {"small", "large"} == set(good.json()["workers"])
        served.decoder.worker_failed(Role.SMALL, WorkerUnavailable("the small worker has gone"))
        lost = await client.get("/health")
        assert 503 == lost.status_code
        assert "unavailable" == lost.json()["status"]
        assert 503 == (await client.get("/ready")).status_code
        refused = await served.post(HELLO)
        assert (503, "worker_unavailable") == (
            refused.status_code,
            refused.json()["error"]["code"],
        )
        await served.house.keeping.up()
        again = await client.get("/health")
        assert (200, 1) == (again.status_code, again.json()["restarts"])
        assert 200 == (await client.get("/ready")).status_code
        assert expected == (await served.post(HELLO)).json()["choices"][0]["text"]
        assert any("the small worker has gone" in line for line in served.said)


async def test_a_heartbeat_without_answer_is_no_health() -> None:
    """Also before anybody has called the worker frozen."""
    async with serving() as served:
        worker = served.decoder.workers[Role.LARGE]
        worker._heard_ns -= 2_700_000_000
        answer = await served.client.get("/health")
    assert 503 == answer.status_code
    assert [True, False] == [answer.json()["workers"][role]["up"] for role in ("small", "large")]


async def test_a_server_that_is_told_to_stop_lets_requests_end() -> None:
    """New ones are refused with 503 and the end of their connection, /ready says no, and what is
    under way comes to its end.
    """
    async with serving("seed=1&end=0&ms=1") as served:
        async with asyncio.TaskGroup() as group:
            under_way = group.create_task(served.post({"prompt": "Hello", "max_tokens": 200}))
            await until(lambda: served.house.admission.texts)
            ending = group.create_task(served.server._drain())
            await until(lambda: served.house.admission.draining)
            refused = await served.post(HELLO)
            ready = await served.client.get("/ready")
        assert ending.done()
        assert (503, "shutting_down") == (refused.status_code, refused.json()["error"]["code"])
        assert "close" == refused.headers["connection"]
        assert 503 == ready.status_code
        assert 200 == under_way.result().status_code
        assert 200 == under_way.result().json()["usage"]["completion_tokens"]
        assert served.server.clean


@pytest.mark.parametrize("hurry", [True, False])
async def test_what_does_not_end_in_time_is_cut(hurry: bool) -> None:
    """After `drain` seconds, or at once where somebody does not want to wait: then the end was not
    clean, and the texts are closed all the same.
    """
    async with serving("seed=1&end=0&ms=5", drain=60 if hurry else 0.1) as served:
        async with asyncio.TaskGroup() as group:

            async def cut() -> None:
                with pytest.raises(httpx.HTTPError):
                    await served.post(LONG)

            group.create_task(cut())
            await until(lambda: served.house.admission.texts)
            ending = group.create_task(served.server._drain())
            await until(lambda: served.house.admission.draining)
            if hurry:
                served.server.hurry.set()
            await ending
        assert not served.server.clean
        await served.drained()


async def test_workers_that_somebody_else_looks_after_are_waited_for() -> None:
    """Joined and not started: when one goes it is not this program's to replace, so the server tries
    until it is back, at the same address.
    """
    config = Config()
    small, large = (partial(load, WorkerConfig(model=f"toy:{role}?seed=1&end=0")) for role in Role)
    addresses = {Role.SMALL: "inproc://joined-small", Role.LARGE: "inproc://joined-large"}
    said: list[str] = []
    async with (
        Worker(large, addresses[Role.LARGE], 2),
        keeping(config, addresses, inproc, said.append) as kept,
        asyncio.TaskGroup() as group,
    ):
        keeper = group.create_task(kept.run())
        await until(lambda: said)  # nobody is there yet
        async with Worker(small, addresses[Role.SMALL], 2):
            await kept.up()
            before = await kept.decoder.generate("Hello", max_new_tokens=8)
        await until(lambda: kept.current is None)
        async with Worker(small, addresses[Role.SMALL], 2):
            await kept.up()
            assert before.tokens == (await kept.decoder.generate("Hello", max_new_tokens=8)).tokens
            keeper.cancel()


async def test_a_requests_number_comes_back() -> None:
    """The client's own where it is a plain one, else a new one; on refusals too."""
    async with serving() as served:
        named = await served.client.get("/v1/models", headers={"X-Request-Id": "mine-7"})
        plain = await served.client.get("/nowhere")
        odd = await served.client.get("/health", headers={"X-Request-Id": "a b"})
    assert "mine-7" == named.headers["x-request-id"]
    for answer in (plain, odd):
        assert answer.headers["x-request-id"].startswith("req-")


async def test_a_prompt_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither when it is served nor when it is refused."""
    caplog.set_level("DEBUG")
    async with serving(template="{{ raise_exception('x') }}") as served:
        await served.post({"prompt": "a very secret thing", "max_tokens": 4})
        await served.post({"prompt": "a very secret thing", "alpha_fb": 7})
        await served.post(
            {"messages": [{"role": "user", "content": "a very secret thing"}]},
            "/v1/chat/completions",
        )
    assert caplog.records
    assert "secret thing" not in caplog.text


async def test_metrics_and_the_page_are_there_where_somebody_gives_them() -> None:
    """Without them the paths are unknown, like any other; no path leads out of the page's folder."""
    async with serving() as served:
        for path in ("/metrics", "/page/nothing.js", "/page/..%2fapp.py", "/page/%2e%2e%2fapp.py"):
            assert 404 == (await served.client.get(path)).status_code, path
