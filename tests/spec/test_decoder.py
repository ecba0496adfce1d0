"""The decoder as Python users meet it: texts, streams, cancellation, deadlines, over toys in one
process.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import bild_dist
from bild_dist.errors import ConfigError, DeadlineExceeded, InvalidRequest
from bild_dist.messages import Info
from bild_dist.model.toy import ToyModel
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.pairing import check_pair, schedule_for, shared_vocabulary
from bild_dist.types import FinishReason, Options, Policy, Role, Source, TokenEvent


@asynccontextmanager
async def pair(spec: str = "seed=1&f=0.3&end=0.01", **settings: object) -> AsyncIterator[Decoder]:
    async with bild_dist.launch(
        f"toy:small?{spec}", f"toy:large?{spec}", transport="inproc", **settings
    ) as decoder:
        yield decoder


async def drained(decoder: Decoder) -> None:
    """Returns when no worker holds a slot any more; a leak would run into the test's time limit."""
    for worker in decoder.workers.values():
        while await worker.open_slots():
            pass


async def test_a_stream_is_the_text() -> None:
    """The pieces put together are the text; positions, tokens and sources are those of the
    result.
    """
    async with pair() as decoder:
        text = decoder.stream("Hello", max_new_tokens=60)
        events = [event async for event in text]
        result = await text.result()

        assert result.text == "".join(e.text for e in events)
        assert list(range(len(events))) == [e.position for e in events]
        assert result.tokens == tuple(e.token for e in events)
        assert result.sources == tuple(e.source for e in events)
        again = await decoder.generate("Hello", max_new_tokens=60)
        assert (result.text, result.tokens) == (again.text, again.tokens)
        await drained(decoder)


async def test_events_say_what_the_models_thought() -> None:
    """A checked small token has a confidence and a distance; a fallback has the confidence that was
    too low.
    """
    async with pair() as decoder:
        events = [e async for e in decoder.stream("Hello", max_new_tokens=80, alpha_fb=0.6)]

    small = [e for e in events if e.source is Source.SMALL]
    fallback = [e for e in events if e.source is Source.FALLBACK]
    assert small
    assert fallback
    assert all(e.confidence is not None and e.confidence >= 0.6 for e in small)
    assert all(e.distance is not None and e.distance >= 0 for e in small)
    assert all(e.confidence is not None and e.confidence < 0.6 for e in fallback)


async def test_a_stop_string_ends_the_text_and_is_cut() -> None:
    """`tokens` keeps the token that completes it, `text` ends before it, nothing of it is
    streamed.
    """
    async with pair("seed=1&f=0.3&end=0") as decoder:
        whole = (await decoder.generate("Hello", max_new_tokens=60)).text
        stop = whole[20:23]
        expected = whole[: whole.index(stop)]
        text = decoder.stream("Hello", max_new_tokens=60, stop=stop)
        pieces = [event.text async for event in text]
        result = await text.result()

    assert FinishReason.STOP is result.finish_reason
    assert expected == result.text == "".join(pieces)
    assert stop in ToyText.decode(result.tokens)
    assert stop not in ToyText.decode(result.tokens[:-1])


class ToyText:
    """What toys write: bytes."""

    @staticmethod
    def decode(tokens: tuple[int, ...]) -> str:
        return bytes(t for t in tokens if t < 256).decode(errors="replace")


@pytest.mark.parametrize("how", ["aclose", "drop", "break"])
async def test_a_text_nobody_wants_is_cancelled(how: str) -> None:
    """Closed, dropped or left by a break: both slots are free again, and the next text is
    served.
    """
    async with pair("seed=1&end=0&ms=1") as decoder:
        text = decoder.stream("Hello", max_new_tokens=1000)
        if how == "break":
            async for _ in text:
                break
        else:
            await anext(text)
        if how == "aclose":
            await text.aclose()
            with pytest.raises(asyncio.CancelledError):
                await text.result()
        del text
        gc.collect()
        await drained(decoder)
        assert 3 == len((await decoder.generate("Hello", max_new_tokens=3)).tokens)


async def test_cancelling_at_every_step_leaves_nothing_behind() -> None:
    """A request cancelled after 0, 1, 2, ... turns of the loop never keeps a slot."""
    async with pair("seed=1&end=0", concurrency=2) as decoder:
        for turns in range(60):
            text = decoder.stream("Hello", max_new_tokens=50)
            for _ in range(turns):
                await asyncio.sleep(0)
            await text.aclose()
        await drained(decoder)
        assert 5 == len((await decoder.generate("Hello", max_new_tokens=5)).tokens)


async def test_a_cancelled_caller_cancels_its_text() -> None:
    """`generate` inside a timeout gives its slots back when the timeout strikes."""
    async with pair("seed=1&end=0&ms=5") as decoder:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await decoder.generate("Hello", max_new_tokens=1000)
        await drained(decoder)


async def test_deadlines_count_from_the_request() -> None:
    """A request that is decoded too slowly, and one that waits too long for its turn, end in
    time.
    """
    async with pair("seed=1&end=0&ms=5", concurrency=1) as decoder:
        slow = decoder.stream("one", max_new_tokens=1000, deadline=0.15)
        waiting = decoder.stream("two", max_new_tokens=1000, deadline=0.05)
        for text in (waiting, slow):
            with pytest.raises(DeadlineExceeded):
                await text.result()
        await drained(decoder)


async def test_more_requests_than_slots_wait_for_their_turn() -> None:
    """Fifty requests at once on eight slots give the same texts as one by one."""
    async with pair(concurrency=50) as decoder:
        prompts = [f"Prompt {n}" for n in range(50)]
        texts = [decoder.stream(prompt, max_new_tokens=20) for prompt in prompts]
        together = [(await text.result()).tokens for text in texts]
        alone = [(await decoder.generate(prompt, max_new_tokens=20)).tokens for prompt in prompts]

    assert alone == together


async def test_leaving_the_decoder_cancels_what_runs() -> None:
    """The context can be left while texts are under way; their readers are told."""
    async with pair("seed=1&end=0&ms=1") as decoder:
        text = decoder.stream("Hello", max_new_tokens=1000)
        await anext(text)
    with pytest.raises(asyncio.CancelledError):
        await text.result()


async def test_an_exception_in_the_body_passes_unchanged() -> None:
    """The user's own error is not wrapped into a group."""
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 (the block is what is tested)
        async with pair() as decoder:
            await decoder.generate("Hello", max_new_tokens=2)
            raise ZeroDivisionError


async def test_bad_options_are_refused_where_they_are_given() -> None:
    """Unknown names and values out of range raise at the call, not in the text."""
    async with pair() as decoder:
        for options in ({"alpha_bf": 1}, {"alpha_fb": 2}, {"window": 0}, {"mode": "fast"}):
            with pytest.raises(InvalidRequest):
                decoder.stream("Hello", **options)
        prompts: list[Any] = ["", [], [{"role": "user"}], [1, "a"], [70000]]
        for prompt in prompts:
            with pytest.raises(InvalidRequest):
                await decoder.generate(prompt)
        await drained(decoder)


async def test_a_long_prompt_is_refused_or_cut() -> None:
    """Too long for the models: refused with the numbers, or cut at its beginning when asked."""
    async with pair("seed=1&end=0&length=64") as decoder:
        with pytest.raises(InvalidRequest, match=r"63"):
            await decoder.generate("x" * 100)
        result = await decoder.generate("x" * 100, truncate=True, max_new_tokens=10)
        assert 10 == len(result.tokens)
        clipped = await decoder.generate("x" * 60, max_new_tokens=100)
        assert (4, FinishReason.LENGTH) == (len(clipped.tokens), clipped.finish_reason)


async def test_encoder_decoder_toys_are_served_too() -> None:
    """The source goes to the encoder, and another source gives another text."""
    async with pair("seed=1&end=0&encdec=1") as decoder:
        one = await decoder.generate("one", max_new_tokens=20)
        two = await decoder.generate("two", max_new_tokens=20)
        again = await decoder.generate("one", max_new_tokens=20)

    assert one.tokens == again.tokens
    assert one.tokens != two.tokens


def info(**changes: object) -> Info:
    import dataclasses

    return dataclasses.replace(ToyModel("toy:large").info, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("small", "large", "needle"),
    [
        (info(kind="encoder-decoder"), info(), "same family"),
        (info(tokenizer="a"), info(tokenizer="b"), "different tokenizers"),
        (info(tokenizer="", tokenizer_size=0), info(), "without a tokenizer"),
        (info(decoder_prompt=(1,)), info(decoder_prompt=(2,)), "decoder_start_token_id"),
    ],
)
def test_models_that_do_not_fit_are_refused(small: Info, large: Info, needle: str) -> None:
    """ConfigError in plain words that names both models."""
    with pytest.raises(ConfigError, match=needle) as caught:
        check_pair(small, large)
    assert small.model in str(caught.value)


def test_padded_vocabularies_fit() -> None:
    """Logits of different widths over one tokenizer are fine: what lies beyond it is masked."""
    import dataclasses

    base = info(tokenizer="t", tokenizer_size=250)
    wide = dataclasses.replace(base, rules=dataclasses.replace(base.rules, vocabulary=512))
    check_pair(base, wide)
    assert 250 == shared_vocabulary(base, wide)


@pytest.mark.parametrize(
    ("small", "large", "schedule"),
    [
        ({"device": "cuda:0"}, {"device": "cuda:1"}, "overlap"),
        ({"device": "cuda:0", "pid": 1}, {"device": "cuda:0", "pid": 2}, "through"),
        ({"cores": 2, "pid": 1}, {"cores": 2, "pid": 2}, "overlap"),
        ({"cores": 2, "pid": 1, "threads": 2}, {"cores": 2, "pid": 2}, "through"),
        ({"cores": 1, "pid": 1}, {"cores": 8, "pid": 2}, "through"),
        ({"cores": 2, "pid": 1}, {"cores": 2, "pid": 1}, "through"),
    ],
)
def test_models_with_a_device_each_overlap(
    small: dict[str, Any], large: dict[str, Any], schedule: str
) -> None:
    """Two devices, or cores for the threads of both in processes of their own."""
    assert schedule == schedule_for(info(**small), info(**large), Options())
    assert "paper" == schedule_for(info(**small), info(**large), Options(policy=Policy.REJECTION))


async def test_launch_refuses_unknown_settings() -> None:
    """A misspelt setting never vanishes."""
    with pytest.raises(ConfigError, match="transport"):
        bild_dist.launch("toy:small", "toy:large", transprot="zmq")


def test_token_events_are_plain_data() -> None:
    """Users may compare and print them."""
    event = TokenEvent(
        position=0, token=1, text="a", source=Source.SMALL, confidence=0.5, distance=None
    )
    assert "small" in repr(event)
    assert Role.SMALL in Role
