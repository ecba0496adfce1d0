"""What `bild serve` writes: the decoder's own texts, as OpenAI's clients and curl expect them."""

from __future__ import annotations

import asyncio
import json
import math
from itertools import pairwise
from typing import Any

import openai
import pytest

from bild_dist.types import FinishReason
from tests.serving import TEMPLATE, Served, serving


def client_of(served: Served, key: str = "none needed") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.address}/v1", api_key=key, max_retries=0)


async def test_openais_client_gets_the_decoders_text() -> None:
    """The official package, unchanged: the text, why it ended, and what was counted are those of the
    decoder.
    """
    async with serving() as served, client_of(served) as client:
        expected = await served.decoder.generate("Hello", max_new_tokens=40, chat_template=False)
        answer = await client.completions.create(model="bild", prompt="Hello", max_tokens=40)

    assert expected.text == answer.choices[0].text
    reason = {FinishReason.EOS: "stop", FinishReason.LENGTH: "length"}[expected.finish_reason]
    assert reason == answer.choices[0].finish_reason
    assert answer.usage is not None
    assert (5, len(expected.tokens)) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert answer.usage.total_tokens == 5 + len(expected.tokens)


async def test_a_stream_is_the_same_text_in_pieces() -> None:
    """Chunks put together are the text; the last with a choice says why it ended, and the one behind
    it has the counts where they were asked for.
    """
    async with serving() as served, client_of(served) as client:
        whole = await client.completions.create(model="bild", prompt="Hello", max_tokens=40)
        stream = await client.completions.create(
            model="bild", prompt="Hello", max_tokens=40, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        chunks = [chunk async for chunk in stream]

    assert whole.choices[0].text == "".join(c.choices[0].text for c in chunks if c.choices)
    assert [None] * (len(chunks) - 1) == [chunk.usage for chunk in chunks[:-1]]
    assert whole.usage == chunks[-1].usage
    assert [] == chunks[-1].choices
    assert whole.choices[0].finish_reason == chunks[-2].choices[0].finish_reason
    assert 1 == len({chunk.id for chunk in chunks})


async def test_a_chat_goes_through_the_models_template() -> None:
    """Roles and parts reach the template; `developer` is what it calls `system`; whole and streamed
    are one text.
    """
    async with serving(template=TEMPLATE) as served, client_of(served) as client:
        expected = await served.decoder.generate(
            "<system>Be brief.<user>Hello<assistant>", max_new_tokens=30, chat_template=False
        )
        messages: list[Any] = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"},
            ]},
        ]  # fmt: skip
        answer = await client.chat.completions.create(
            model="bild", messages=messages, max_completion_tokens=30
        )
        stream = await client.chat.completions.create(
            model="bild", messages=messages, max_tokens=30, stream=True
        )
        chunks = [chunk async for chunk in stream]

    assert expected.text == answer.choices[0].message.content
    assert "assistant" == answer.choices[0].message.role == chunks[0].choices[0].delta.role
    assert expected.text == "".join(c.choices[0].delta.content or "" for c in chunks)
    assert [None] * (len(chunks) - 1) == [c.choices[0].delta.role for c in chunks[1:]]
    assert answer.choices[0].finish_reason == chunks[-1].choices[0].finish_reason


async def test_one_message_is_the_prompt_of_a_model_that_knows_no_chats() -> None:
    """A translation model can be used by programs that only know chats; a conversation it cannot
    have, and says so.
    """
    async with serving() as served:
        plain = await served.post({"prompt": "Hello", "max_tokens": 20})
        one = [{"role": "user", "content": "Hello"}]
        chat = await served.post({"messages": one, "max_tokens": 20}, "/v1/chat/completions")
        two = await served.post(
            {"messages": [*one, {"role": "assistant", "content": "Hi"}]}, "/v1/chat/completions"
        )

    assert plain.json()["choices"][0]["text"] == chat.json()["choices"][0]["message"]["content"]
    assert 400 == two.status_code
    assert "messages" == two.json()["error"]["param"]


async def test_options_of_a_request_reach_the_decoder() -> None:
    """Mode, thresholds, sampling and stop strings, as fields beside those of the API."""
    async with serving("seed=3&f=0.4&end=0", generate={"max_new_tokens": 40}) as served:
        options: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({"mode": "exact"}, {"mode": "exact"}),
            ({"alpha_fb": 0.2, "alpha_rb": 9, "window": 3}, {"alpha_fb": 0.2, "alpha_rb": 9, "window": 3}),
            ({"temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 7},
             {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 7}),
            ({"stop": "e", "max_tokens": 30}, {"stop": "e", "max_new_tokens": 30}),
            ({"stop": ["e", "o"], "schedule": "paper"}, {"stop": ("e", "o"), "schedule": "paper"}),
        ]  # fmt: skip
        for body, ours in options:
            expected = await served.decoder.generate("Hello", chat_template=False, **ours)
            answer = (await served.post({"prompt": "Hello", **body})).json()
            assert expected.text == answer["choices"][0]["text"], body
            assert len(expected.tokens) == answer["usage"]["completion_tokens"]


async def test_a_model_alone_is_a_mode() -> None:
    """`small`, `large` and the models' own names write what their modes write, and are listed; the
    pair under the name that the operator gave it.
    """
    async with serving("seed=3&f=0.4&end=0", name="twins") as served, client_of(served) as client:
        names = [model.id async for model in await client.models.list()]
        texts = {}
        for name in names:
            answer = await client.completions.create(model=name, prompt="Hello", max_tokens=30)
            texts[name] = answer.choices[0].text
            assert name == answer.model
        expected = {
            mode: (await served.decoder.generate("Hello", mode=mode, max_new_tokens=30)).text
            for mode in ("bild", "small", "large")
        }

    assert [
        "twins",
        "small",
        "large",
        "toy:small?seed=3&f=0.4&end=0",
        "toy:large?seed=3&f=0.4&end=0",
    ] == names
    assert expected["bild"] == texts["twins"]
    assert expected["small"] == texts["small"] == texts[names[3]]
    assert expected["large"] == texts["large"] == texts[names[4]]


async def test_several_texts_have_seeds_in_a_row_or_are_one() -> None:
    """With a temperature the i-th of `n` has seed + i; without one all are the same text, written
    once. Several prompts come one after the other.
    """
    async with serving("seed=3&end=0", generate={"max_new_tokens": 24}) as served:
        body = {"prompt": ["Hello", "Good day"], "n": 3, "temperature": 1.0, "seed": 11}
        drawn = (await served.post(body)).json()
        expected = [
            (await served.decoder.generate(prompt, temperature=1.0, seed=11 + i)).text
            for prompt in ("Hello", "Good day")
            for i in range(3)
        ]
        before = served.decoder.workers  # the same pair wrote them all
        greedy = (await served.post({"prompt": "Hello", "n": 4, "bild": True})).json()
        streamed = await served.chunks({"prompt": "Hello", "n": 4})

        assert before is served.decoder.workers

    assert expected == [choice["text"] for choice in drawn["choices"]]
    assert list(range(6)) == [choice["index"] for choice in drawn["choices"]]
    assert 5 + 8 == drawn["usage"]["prompt_tokens"]
    assert 6 * 24 == drawn["usage"]["completion_tokens"]
    texts = [choice["text"] for choice in greedy["choices"]]
    assert 1 == len(set(texts))
    assert 1 == len({choice["bild"]["trace"]["wall_ns"] for choice in greedy["choices"]})
    for index in range(4):
        pieces = [c["choices"][0]["text"] for c in streamed if c["choices"][0]["index"] == index]
        assert texts[0] == "".join(pieces)


async def test_provenance_is_given_where_it_is_asked_for() -> None:
    """Of every token who wrote it and what the models thought; whole or streamed; and not a field
    more where nobody asked.
    """
    async with serving("seed=3&f=0.4&end=0", generate={"max_new_tokens": 40}) as served:
        generation = served.decoder.stream("Hello", chat_template=False)
        events = [event async for event in generation]
        plain = (await served.post({"prompt": "Hello"})).json()
        whole = (await served.post({"prompt": "Hello", "bild": True})).json()
        chunks = await served.chunks({"prompt": "Hello", "bild": {"tokens": True, "trace": True}})

    assert "bild" not in plain["choices"][0]
    told = whole["choices"][0]["bild"]
    assert [e.token for e in events] == [t["token"] for t in told["tokens"]]
    assert [e.source.value for e in events] == [t["source"] for t in told["tokens"]]
    assert list(range(len(events))) == [t["position"] for t in told["tokens"]]
    for event, token in zip(events, told["tokens"], strict=True):
        for measured, shown in (
            (event.confidence, token["confidence"]),
            (event.distance, token["distance"]),
        ):
            if measured is None or not math.isfinite(measured):
                assert shown is None
            else:
                assert measured == pytest.approx(shown, abs=1e-6)
    assert {"small_passes", "large_passes", "wall_ns"} <= set(told["trace"])
    assert "length" == told["finish_reason"]
    shown = [c["choices"][0].get("bild", {}) for c in chunks]
    assert told["tokens"] == [token for s in shown for token in s.get("tokens", [])]
    assert "trace" in shown[-1]
    for chunk in chunks:
        tokens = chunk["choices"][0].get("bild", {}).get("tokens", [])
        assert chunk["choices"][0]["text"] == "".join(t["text"] for t in tokens)


async def test_log_probabilities_are_the_deciding_models() -> None:
    """In the shape of both endpoints: ln p of each token, its rivals best first, and where its text
    begins; the same whole and in a stream.
    """
    async with serving("seed=3&f=0.4&end=0", generate={"max_new_tokens": 24}) as served:
        generation = served.decoder.stream("Hello", chat_template=False, logprobs=3)
        events = [event async for event in generation]
        none = (await served.post({"prompt": "Hello"})).json()
        own = (await served.post({"prompt": "Hello", "logprobs": 0})).json()
        whole = (await served.post({"prompt": "Hello", "logprobs": 3})).json()
        chunks = await served.chunks({"prompt": "Hello", "logprobs": 3})
        async with client_of(served) as client:
            chat = await client.chat.completions.create(
                model="bild", messages=[{"role": "user", "content": "Hello"}], logprobs=True,
                top_logprobs=3,
            )  # fmt: skip

    assert None is none["choices"][0]["logprobs"]
    assert None is own["choices"][0]["logprobs"]["top_logprobs"]
    told = whole["choices"][0]["logprobs"]
    assert [e.logprob for e in events] == pytest.approx(told["token_logprobs"], abs=1e-5)
    text = whole["choices"][0]["text"]
    assert 0 == told["text_offset"][0]
    assert all(a <= b <= len(text) for a, b in pairwise(told["text_offset"]))
    assert all(3 == len(top) for top in told["top_logprobs"])
    streamed: dict[str, list[Any]] = {name: [] for name in told}
    for chunk in chunks:
        part = chunk["choices"][0]["logprobs"]
        for name in told if part is not None else ():
            streamed[name] += part[name]
    assert told == streamed
    content = chat.choices[0].logprobs
    assert content is not None
    assert content.content is not None
    assert told["token_logprobs"] == [entry.logprob for entry in content.content]
    assert told["tokens"] == [entry.token for entry in content.content]
    for entry in content.content:
        tops = [top.logprob for top in entry.top_logprobs]
        assert tops == sorted(tops, reverse=True)
        assert entry.bytes is None or entry.token == bytes(entry.bytes).decode()


async def test_events_tell_what_is_under_way() -> None:
    """A reader of the events alone, who never looks at the chunks' text, ends with the text: drafts
    appear, verdicts keep a part of them, what was replaced is named with how much fell behind it.
    Every worker's time is told, and nothing of it lies after its answer.
    """
    async with serving(
        "seed=5&f=0.3&rho=0.2&end=0&ms=1", generate={"max_new_tokens": 60}
    ) as served:
        for schedule in ("paper", "through", "overlap"):
            chunks = await served.chunks(
                {"prompt": "Hello", "schedule": schedule, "bild": {"events": True, "tokens": True}}
            )
            shown = [c["choices"][0].get("bild", {}) for c in chunks]
            events = [event for s in shown for event in s.get("events", [])]
            tokens = [token for s in shown for token in s.get("tokens", [])]
            check_events(events, [token["token"] for token in tokens], schedule)


def check_events(events: list[dict[str, Any]], tokens: list[int], schedule: str) -> None:
    kinds = {event["type"] for event in events}
    assert {"asked", "busy", "draft", "verdict", "replaced", "finished"} == kinds, schedule
    drafted = sum(len(e["tokens"]) for e in events if e["type"] == "draft")
    assert drafted > 0
    for event in events:
        if event["type"] == "draft":
            assert len(event["tokens"]) == len(event["texts"]) == len(event["confidences"])
        elif event["type"] == "verdict":
            place, accepted = event["position"], event["accepted"]
            assert accepted <= event["count"]
            assert event["objected"] is (accepted < event["count"])
            if event["token"] is not None and place + accepted < len(tokens):
                assert event["token"] == tokens[place + accepted]
        elif event["type"] == "replaced":
            assert event["new"]["token"] == tokens[event["position"]] != event["old"]["token"]
            assert event["source"] in ("fallback", "rollback", "window")
        elif event["type"] == "busy":
            assert 0 <= event["from"] <= event["to"] <= event["back"]
    roles = {event["role"] for event in events if event["type"] == "busy"}
    assert {"small", "large"} == roles
    objected = [e for e in events if e["type"] == "verdict" and e["objected"]]
    assert objected
    times = [event["at"] for event in events if event["type"] == "asked"]
    assert times == sorted(times)
    assert "finished" == events[-1]["type"]


async def test_curl_is_enough() -> None:
    """What the documentation shows, typed into a shell: a whole answer and a stream."""
    async with serving() as served:
        body = json.dumps({"prompt": "Hello", "max_tokens": 12})
        whole = json.loads(await curl(served, "/v1/completions", body))
        streamed = await curl(served, "/v1/completions", body[:-1] + ', "stream": true}')

    lines = [line for line in streamed.splitlines() if line]
    chunks = [json.loads(line[len("data: ") :]) for line in lines[:-1]]
    assert "data: [DONE]" == lines[-1]
    assert whole["choices"][0]["text"] == "".join(c["choices"][0]["text"] for c in chunks)


async def curl(served: Served, path: str, body: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sN", "--noproxy", "*", f"{served.address}{path}",
        "-H", "Content-Type: application/json", "-d", body,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    stdout, _ = await process.communicate()
    assert 0 == process.returncode
    return stdout.decode()
