"""What `bild serve` refuses: every bad request by name, with a status of its own, and nobody else is
the worse for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from bild_dist.errors import ConfigError, WorkerUnavailable
from bild_dist.orchestrator.http.auth import Keys
from bild_dist.orchestrator.http.problems import Problem
from bild_dist.orchestrator.http.schema import parse
from bild_dist.orchestrator.http.server import listen
from bild_dist.tables import HttpConfig
from bild_dist.types import Options, Role
from tests.serving import serving

HELLO = {"prompt": "Hello", "max_tokens": 4}
CHAT = [{"role": "user", "content": "Hello"}]

BAD: list[tuple[bool, dict[str, Any], str, str]] = [
    (False, {}, "prompt", "list of token ids"),
    (False, {"prompt": 7}, "prompt", "list of token ids"),
    (False, {"prompt": []}, "prompt", "list of token ids"),
    (False, {"prompt": ["a", 1]}, "prompt", "list of either"),
    (False, {**HELLO, "temprature": 1}, "temprature", "did you mean 'temperature'"),
    (False, {**HELLO, "alpa_fb": 1}, "alpa_fb", "did you mean 'alpha_fb'"),
    (False, {**HELLO, "messages": CHAT}, "messages", "unknown field"),
    (False, {**HELLO, "logit_bias": {"5": 3}}, "logit_bias", "cannot be honoured"),
    (False, {**HELLO, "presence_penalty": 0.5}, "presence_penalty", "cannot be honoured"),
    (False, {**HELLO, "echo": True}, "echo", "cannot be honoured"),
    (False, {**HELLO, "suffix": "end"}, "suffix", "cannot be honoured"),
    (False, {**HELLO, "best_of": 3}, "best_of", "equal to n"),
    (False, {**HELLO, "alpha_fb": 3}, "alpha_fb", "from 0 to 1"),
    (False, {**HELLO, "max_tokens": 0}, "max_tokens", "max_tokens = 0"),
    (False, {**HELLO, "max_completion_tokens": 9}, "max_tokens", "give one"),
    (False, {**HELLO, "temperature": "warm"}, "temperature", "finite number"),
    (False, {**HELLO, "top_p": 0}, "top_p", "above 0"),
    (False, {**HELLO, "seed": -1}, "seed", "from 0"),
    (False, {**HELLO, "n": 0}, "n", "from 1 to 16"),
    (False, {**HELLO, "n": True}, "n", "from 1 to 16"),
    (False, {**HELLO, "stop": ""}, "stop", "non-empty"),
    (False, {**HELLO, "mode": "fast"}, "mode", "one of bild"),
    (False, {**HELLO, "stream": 1}, "stream", "true or false"),
    (False, {**HELLO, "stream_options": {"include_usage": True}}, "stream_options", '"stream": true'),
    (False, {**HELLO, "stream": True, "stream_options": {"usage": True}}, "stream_options", "include_usage"),
    (False, {**HELLO, "logprobs": 21}, "logprobs", "from 0 to 20"),
    (False, {**HELLO, "logprobs": True}, "logprobs", "from 0 to 20"),
    (False, {**HELLO, "bild": 3}, "bild", "tokens, trace, events"),
    (False, {**HELLO, "bild": {"token": True}}, "bild", "did you mean 'tokens'"),
    (False, {**HELLO, "bild": {"events": True}}, "bild", '"stream": true'),
    (False, {**HELLO, "model": 5}, "model", "a string"),
    (False, {**HELLO, "policy": "rejection", "schedule": "overlap"}, "schedule", "paper"),
    (True, {}, "messages", "at least one"),
    (True, {"messages": []}, "messages", "at least one"),
    (True, {"messages": ["Hello"]}, "messages", "messages[0]"),
    (True, {"messages": [{"role": "robot", "content": ""}]}, "messages", "one of system"),
    (True, {"messages": [{"role": "user", "content": 5}]}, "messages", "a text or a list"),
    (True, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "parts"),
    (True, {"messages": [{"role": "user", "content": "", "contents": "x"}]}, "messages", "did you mean 'content'"),
    (True, {"messages": CHAT, "top_logprobs": 3}, "top_logprobs", '"logprobs": true'),
    (True, {"messages": CHAT, "tools": [{"type": "function"}]}, "tools", "cannot be honoured"),
    (True, {"messages": CHAT, "response_format": {"type": "json_object"}}, "response_format", "honoured"),
    (True, {"messages": CHAT, "prompt": "x"}, "prompt", "unknown field"),
]  # fmt: skip


@pytest.mark.parametrize(("chat", "body", "param", "said"), BAD)
def test_a_bad_field_is_named(chat: bool, body: dict[str, Any], param: str, said: str) -> None:
    """The refusal has the field in `param`, and in its message what is needed."""
    with pytest.raises(Problem) as refused:
        parse(json.dumps(body).encode(), chat=chat, defaults=Options())
    assert 400 == refused.value.status
    assert param == refused.value.param
    assert said in refused.value.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b'"Hello"', b"null", b'{"prompt": NaN}', b"\xff\xfe{}", b"[" * 100_000, b"1" * 5000],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """Cut, nested without end, in another encoding, or no object: refused, and nothing breaks."""
    with pytest.raises(Problem) as refused:
        parse(body, chat=False, defaults=Options())
    assert (400, "invalid_json") == (refused.value.status, refused.value.code)


def test_what_asks_for_nothing_is_no_reason_to_refuse() -> None:
    """Clients send fields at their neutral values, nulls, and names for their own use."""
    body = {
        **HELLO, "frequency_penalty": 0.0, "presence_penalty": None, "logit_bias": {}, "echo": False,
        "suffix": None, "n": 1, "best_of": 1, "user": "me", "metadata": {"a": "b"}, "stream": False,
        "stream_options": None, "logprobs": None, "bild": False,
    }  # fmt: skip
    asked = parse(json.dumps(body).encode(), chat=False, defaults=Options())
    assert ("Hello",) == asked.prompts
    assert {"max_new_tokens": 4, "chat_template": False} == asked.options


async def test_every_refusal_has_openais_shape() -> None:
    """Unknown paths, wrong methods, types and models: the status says what, and the body is one
    error object with all four fields, which OpenAI's client turns into its own exceptions.
    """
    async with serving() as served:
        client = served.client
        answers = {
            404: await client.get("/v1/embeddings"),
            405: await client.get("/v1/completions"),
            415: await client.post("/v1/completions", content=b'{"prompt": "Hello"}'),
            400: await served.post({**HELLO, "alpha_fb": -1}),
        }
        unknown = await served.post({**HELLO, "model": "smal"})
        for status, answer in answers.items():
            assert status == answer.status_code
            error = answer.json()["error"]
            assert {"message", "type", "param", "code"} == set(error)
            assert "invalid_request_error" == error["type"]
        assert "POST" == answers[405].headers["allow"]
        assert 404 == unknown.status_code
        assert "model_not_found" == unknown.json()["error"]["code"]
        assert "did you mean 'small'" in unknown.json()["error"]["message"]
        async with openai.AsyncOpenAI(base_url=f"{served.address}/v1", api_key="x") as official:
            with pytest.raises(openai.NotFoundError):
                await official.completions.create(model="gpt", prompt="Hello")
            with pytest.raises(openai.BadRequestError, match="alpha_fb"):
                await official.completions.create(
                    model="bild", prompt="Hello", extra_body={"alpha_fb": 2}
                )
        assert 200 == (await served.post(HELLO)).status_code


async def test_bad_prompts_are_the_requests_own_fault() -> None:
    """Empty, too long, with ids that there are not, half a character: 400 also for a stream, whose
    status waits for its first token.
    """
    async with serving("seed=1&end=0&length=64") as served:
        for stream in (False, True):
            for prompt in (" ", "x" * 100, [5, 999], "\ud800"):
                body = json.dumps({**HELLO, "prompt": prompt, "stream": stream})
                answer = await served.client.post(
                    "/v1/completions", content=body, headers={"Content-Type": "application/json"}
                )
                assert 400 == answer.status_code, prompt
                assert answer.json()["error"]["message"]
        await served.drained()


async def test_a_large_body_is_refused_before_it_is_read() -> None:
    """By its Content-Length, or in pieces as soon as there are too many; the connection serves on."""
    async with serving(body_limit=2048) as served:
        declared = await served.post({"prompt": "x" * 4000})

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b" " * 1000

        chunked = await served.client.post(
            "/v1/completions", content=pieces(), headers={"Content-Type": "application/json"}
        )
        again = await served.post(HELLO)

    for answer in (declared, chunked):
        assert (413, "request_too_large") == (answer.status_code, answer.json()["error"]["code"])
    assert 200 == again.status_code


async def test_a_body_that_never_comes_is_given_up() -> None:
    """408 after `stall` seconds, and the request is off the books."""
    async with serving(stall=0.1) as served:
        host, port = served.address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert b"408" in await reader.readline()
        writer.close()
        await writer.wait_closed()
        await served.drained()


async def test_keys_are_asked_for_where_there_are_any() -> None:
    """Without the key or with another one 401, on /v1 alone: probes and metrics need none."""
    async with serving(keys=("secret-one", "secret-two")) as served:
        client = served.client
        codes = {}
        for sent in ("", "Bearer wrong-one", "Basic secret-one", "Bearer secret-two"):
            headers = {"Authorization": sent} if sent else {}
            answer = await client.post("/v1/completions", json=HELLO, headers=headers)
            codes[sent] = answer.status_code
            if answer.status_code == 401:
                assert "authentication_error" == answer.json()["error"]["type"]
        assert [401, 401, 401, 200] == list(codes.values())
        assert 401 == (await client.get("/v1/models")).status_code
        assert 200 == (await client.get("/health")).status_code
        async with openai.AsyncOpenAI(base_url=f"{served.address}/v1", api_key="bad") as official:
            with pytest.raises(openai.AuthenticationError):
                await official.models.list()


async def test_without_keys_only_this_host_may_ask() -> None:
    """A page in a browser of this host that reaches the server under a name of its own is refused."""
    async with serving() as served:
        foreign = await served.client.post(
            "/v1/completions", json=HELLO, headers={"Host": "evil.example:8000"}
        )
        own = await served.client.get("/v1/models", headers={"Host": "[::1]:8000"})
    assert (403, "foreign_host") == (foreign.status_code, foreign.json()["error"]["code"])
    assert 200 == own.status_code


def test_other_addresses_need_keys() -> None:
    """Refused before anything starts, with the remedy; with keys it is fine. Loopback needs none."""
    with pytest.raises(ConfigError, match="BILD_API_KEYS"):
        Keys.of(HttpConfig(host="0.0.0.0"), {})
    with pytest.raises(ConfigError, match="at least 8"):
        Keys.of(HttpConfig(), {"BILD_API_KEYS": "short"})
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys.of(HttpConfig(keys_file="/nowhere/keys"), {})
    assert "<Keys 2>" == repr(
        Keys.of(HttpConfig(host="0.0.0.0"), {"BILD_API_KEYS": "longenough, another-one"})
    )
    for host in ("127.0.0.1", "::1", "localhost"):
        assert "<Keys 0>" == repr(Keys.of(HttpConfig(host=host), {}))


def test_an_address_that_is_taken_is_named() -> None:
    """Before any model is loaded."""
    with listen(HttpConfig(port=0)) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            listen(HttpConfig(port=port))


@pytest.mark.parametrize(
    "bad",
    [{"port": 70000}, {"queue": -1}, {"deadline": 0}, {"drain": -1.0}, {"name": ""}, {"host": ""},
     {"body_limit": 10}, {"concurrency": 0}],
)  # fmt: skip
def test_bad_settings_are_named(bad: dict[str, Any]) -> None:
    """As in every table of a configuration."""
    with pytest.raises(ConfigError, match=next(iter(bad))):
        HttpConfig(**bad)


async def test_beyond_its_places_a_server_refuses_at_once() -> None:
    """One text is written, one waits, the third is refused with 429 and a pause to make, before its
    body is read; places that get free are given out again.
    """
    async with serving("seed=1&end=0&ms=2", concurrency=1, queue=1) as served:
        long = {"prompt": "Hello", "max_tokens": 1000, "stream": True}
        async with served.client.stream("POST", "/v1/completions", json=long) as first:
            lines = first.aiter_lines()  # dropped, it would close the connection
            await anext(lines)
            async with asyncio.TaskGroup() as group:
                second = group.create_task(served.post(HELLO))
                while served.house.admission.texts < 2:  # noqa: ASYNC110 (nobody tells)
                    await asyncio.sleep(0.001)
                refused = [await served.post(HELLO) for _ in range(5)]
                unread = await served.client.post(
                    "/v1/completions", content=b"{", headers={"Content-Type": "application/json"}
                )
                await first.aclose()
            assert 200 == second.result().status_code
        for answer in (*refused, unread):
            assert (429, "overloaded") == (answer.status_code, answer.json()["error"]["code"])
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert 6 == served.house.admission.refused
        await served.drained()
        too_many = await served.post({**HELLO, "n": 3, "temperature": 1.0})
        two = await served.post({**HELLO, "n": 2, "temperature": 1.0})
        assert 400 == too_many.status_code
        assert 200 == two.status_code
        await served.drained()


async def test_deadlines_end_requests_and_are_the_lower_of_two() -> None:
    """504 for one that is too slow, by its own deadline or the server's; in a stream that has begun
    as its last event, since the status has gone out.
    """
    async with serving("seed=1&end=0&ms=5", deadline=0.2) as served:
        long = {"prompt": "Hello", "max_tokens": 1000}
        own = await served.post({**long, "deadline": 0.05})
        servers = await served.post({**long, "deadline": 100})
        for answer in (own, servers):
            assert (504, "deadline_exceeded") == (
                answer.status_code,
                answer.json()["error"]["code"],
            )
        async with served.client.stream(
            "POST", "/v1/completions", json={**long, "stream": True}
        ) as answer:
            lines = [line async for line in answer.aiter_lines() if line]
        assert 200 == answer.status_code
        assert "deadline_exceeded" == json.loads(lines[-1][len("data: ") :])["error"]["code"]
        async with openai.AsyncOpenAI(
            base_url=f"{served.address}/v1", api_key="x", max_retries=0
        ) as official:
            with pytest.raises(openai.APIError, match="deadline"):
                async for _ in await official.completions.create(
                    model="bild", prompt="Hello", max_tokens=1000, stream=True
                ):
                    pass
        await served.drained()


async def test_what_went_wrong_inside_stays_inside() -> None:
    """A lost worker is 503 with a pause to make, in words that name no address."""
    async with serving("seed=1&end=0&ms=2") as served:
        address = served.decoder.workers[Role.SMALL].address
        async with asyncio.TaskGroup() as group:
            under_way = group.create_task(served.post({"prompt": "Hello", "max_tokens": 1000}))
            while not served.house.admission.texts:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.001)
            served.decoder.worker_failed(Role.SMALL, WorkerUnavailable(f"{address} is gone"))
        answer = under_way.result()
        assert 503 == answer.status_code
        assert address not in answer.text
        assert 1 <= int(answer.headers["retry-after"])
