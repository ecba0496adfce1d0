"""From what a user wrote to what the models read: ids, constraints, and a length that both can
hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, ParamSpec, TypeAlias

from bild_dist import logprobs
from bild_dist.config import where_given
from bild_dist.errors import InvalidRequest
from bild_dist.messages import MAX_FRAME, Rules
from bild_dist.orchestrator.client import WorkerClient
from bild_dist.orchestrator.dispatcher import Work
from bild_dist.orchestrator.pairing import shared_vocabulary
from bild_dist.orchestrator.text import LONG, Text
from bild_dist.policy.rules import told
from bild_dist.shares import drawn, longest
from bild_dist.types import Mode, Options, Role, Schedule

_FRAME_REST: Final = 64 * 1024
"""Bytes of a message that are left to what is not of drafted tokens."""
_TOKEN: Final = 64
"""Bytes that a drafted token takes besides its probabilities, at most: id, confidence, candidates."""

_P = ParamSpec("_P")
Message: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = str | Sequence[Message] | Sequence[int]
"""A text, a conversation (`[{"role": ..., "content": ...}, ...]`), or token ids."""


async def prepare(
    prompt: Prompt, options: Options, workers: Mapping[Role, WorkerClient], text: Text
) -> Work:
    """Turns a request into ids and rules.

    Raises:
        InvalidRequest: it is empty, malformed, or longer than the models allow.
    """
    large, small = workers[Role.LARGE].info, workers[Role.SMALL].info
    ids, forced = await _ids(prompt, options, workers[Role.LARGE], text)
    vocabulary = shared_vocabulary(small, large)
    if not ids:
        raise InvalidRequest("the prompt is empty: give at least one token")
    if any(not 0 <= token < vocabulary for token in ids):
        raise InvalidRequest(f"prompt_tokens must be ids from 0 to {vocabulary - 1}")
    capacity = min(small.max_length, large.max_length)
    encoder = min(small.max_source, large.max_source)
    begin = large.decoder_prompt if encoder else ids
    if encoder:
        ids = _fit(ids, encoder, options, "encode", keep_end=False)
    else:
        # Room for the text as well, so that a cut prompt leaves space for an answer.
        room = max(1, capacity - options.max_new_tokens) if options.truncate else capacity - 1
        begin = ids = _fit(ids, room, options, "hold with a text behind it", keep_end=True)
    rules = replace(
        large.rules,
        vocabulary=vocabulary,
        begin=len(begin),
        limit=min(len(begin) + options.max_new_tokens, capacity),
        forced_begin=forced if forced is not None else large.rules.forced_begin,
        temperature=float(options.temperature),
        top_k=options.top_k,
        top_p=float(options.top_p),
        seed=options.seed,
    )
    check_frame(options, rules)
    return Work(
        ids=tuple(begin), source=tuple(ids) if encoder else (), rules=rules, options=options
    )


def check_frame(options: Options, rules: Rules) -> None:
    """Where the two models' distributions are compared, the small one's comes with every drafted
    token, as log-probabilities do where they are asked for: all of a draft must fit one message.

    Raises:
        InvalidRequest: it does not; names what would fit.
    """
    # The large one tells of a draft's tokens too, where it decides them.
    asked = told(rules, options, Role.LARGE)
    row = longest(asked) + logprobs.size(asked)
    # Other schedules draft through hand-overs, so only the length of the text bounds a draft.
    paper = options.schedule in (None, Schedule.PAPER) or not options.verify_tail
    draft = rules.limit - rules.begin
    draft = min(options.window, draft) if paper else draft
    most = (MAX_FRAME - _FRAME_REST) // (row + _TOKEN)
    # Who writes alone reports every token by itself.
    alone = options.mode in (Mode.LARGE, Mode.SMALL)
    if row == 0 or alone or draft <= most:
        return
    fits = f"{'a window' if paper else 'max_new_tokens'} of at most {most}, or " if most else ""
    other = "a smaller top_k" if drawn(asked) else "distance 'ce'"
    other = other if longest(asked) else "fewer logprobs"
    raise InvalidRequest(
        f"probabilities of {row} bytes for each of up to {draft} tokens of a draft are more than the "
        f"{MAX_FRAME} bytes of a message: take {fits}{other}"
    )


async def _ids(
    prompt: Prompt, options: Options, worker: WorkerClient, text: Text
) -> tuple[tuple[int, ...], int | None]:
    """The prompt's ids, and the id of the target language where one is forced."""
    info = worker.info
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InvalidRequest("the prompt is empty: give some text")
        if info.encodes:
            encoded = await worker.encode(prompt, options.src_lang or "", options.tgt_lang or "")
            return encoded.ids, encoded.forced_begin
        if options.chat_template and text.has_chat_template:
            ids = await _aside(len(prompt), text.chat, [{"role": "user", "content": prompt}])
        else:
            ids = await _aside(len(prompt), text.encode, prompt, options.src_lang)
    elif all(isinstance(part, int) and not isinstance(part, bool) for part in prompt):
        ids = [part for part in prompt if isinstance(part, int)]
    elif all(isinstance(part, Mapping) for part in prompt):
        messages = [part for part in prompt if isinstance(part, Mapping)]
        long = sum(len(str(message.get("content", ""))) for message in messages)
        ids = await _aside(long, text.chat, messages)
    else:
        raise InvalidRequest(
            "a prompt is a text, a list of messages ({'role': ..., 'content': ...}), or token ids"
        )
    return tuple(ids), await _language(options, worker, text)


async def _aside(
    characters: int, tokenise: Callable[_P, list[int]], *args: _P.args, **kwargs: _P.kwargs
) -> list[int]:
    """Ids of so many characters, made where it does not hold up the event loop."""
    if characters <= LONG:
        return tokenise(*args, **kwargs)
    return await asyncio.to_thread(tokenise, *args, **kwargs)


async def _language(options: Options, worker: WorkerClient, text: Text) -> int | None:
    if options.tgt_lang is None:
        return None
    if worker.info.encodes:
        # The worker knows its languages, and says with any text which id is forced.
        said = await worker.encode("-", options.src_lang or "", options.tgt_lang)
        return said.forced_begin
    return text.language(options.tgt_lang)


def _fit(
    ids: tuple[int, ...], room: int, options: Options, verb: str, *, keep_end: bool
) -> tuple[int, ...]:
    if len(ids) <= room:
        return ids
    if not options.truncate:
        raise InvalidRequest(
            f"the prompt has {len(ids)} tokens and the models can {verb} {room}: "
            "shorten it, ask to truncate it, or give models that know more positions a larger max_length "
            f"{where_given('max_length')}"
        )
    return ids[-room:] if keep_end else ids[:room]
