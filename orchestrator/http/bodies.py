"""Answers as OpenAI's API has them: whole ones, and the chunks of a stream; `bild` beside."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bild_dist.orchestrator.http.events import number
from bild_dist.orchestrator.http.schema import Asked
from bild_dist.orchestrator.http.texts import Plan, Written
from bild_dist.orchestrator.text import Text
from bild_dist.types import FinishReason, Result, TokenEvent

DONE: Final = b"data: [DONE]\n\n"
"""How a stream ends."""
_REASONS: Final = {
    FinishReason.EOS: "stop",
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
}


@dataclass(slots=True)
class Shape:
    """How the answer to one request looks. Owned by the task that answers it; it keeps how long the
    text of each choice is, for the offsets of its log-probabilities.
    """

    asked: Asked
    model: str
    fingerprint: str
    text: Text
    name: str = ""
    created: int = 0
    _lengths: dict[int, int] = dataclasses.field(default_factory=dict)
    _begun: set[int] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        self.name = f"{'chatcmpl' if self.asked.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(datetime.now(UTC).timestamp())

    def whole(self, planned: Sequence[Plan], written: Sequence[Written]) -> bytes:
        """The answer to a request that did not ask for a stream."""
        choices: list[dict[str, Any]] = []
        for plan, one in zip(planned, written, strict=True):
            for index in plan.choices:
                result = one.result
                choice = self._choice(index, result.text, one.events, chunk=False)
                choice["finish_reason"] = _REASONS[result.finish_reason]
                shown = self._shown(one.events, result)
                choices.append({**choice, "bild": shown} if shown else choice)
        body = self._head(chunk=False)
        body["choices"] = choices
        body["usage"] = usage(self.asked, planned, [one.result for one in written])
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")

    def tokens(self, plan: Plan, events: Sequence[TokenEvent]) -> list[bytes]:
        """Chunks for tokens that have become text: one for each choice that they fill. None where
        they add nothing that was asked for, such as half a character.
        """
        text = "".join(event.text for event in events)
        shown = self._shown(events, None)
        if not (text or shown or self.asked.logprobs is not None):
            return []
        return [
            self._chunk(self._choice(index, text, events, chunk=True), shown)
            for index in plan.choices
        ]

    def event(self, plan: Plan, event: dict[str, Any]) -> list[bytes]:
        """A chunk for something that is under way."""
        index = plan.choices[0]
        return [self._chunk(self._choice(index, "", (), chunk=True), {"events": [event]})]

    def end(self, plan: Plan, result: Result) -> list[bytes]:
        """The last chunks of a text."""
        chunks = []
        for index in plan.choices:
            choice = self._choice(index, "", (), chunk=True)
            choice["finish_reason"] = _REASONS[result.finish_reason]
            chunks.append(self._chunk(choice, self._shown((), result)))
        return chunks

    def usage(self, planned: Sequence[Plan], results: Sequence[Result]) -> bytes:
        """The chunk behind all texts that a request with `include_usage` gets."""
        body = self._head(chunk=True)
        body |= {"choices": [], "usage": usage(self.asked, planned, results)}
        return sse(body)

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self.asked.chat:
            kind = "chat.completion.chunk" if chunk else "chat.completion"
        return {
            "id": self.name, "object": kind, "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint,
        }  # fmt: skip

    def _chunk(self, choice: dict[str, Any], shown: dict[str, Any]) -> bytes:
        if shown:
            choice["bild"] = shown
        body = self._head(chunk=True)
        body["choices"] = [choice]
        if self.asked.usage:
            body["usage"] = None
        return sse(body)

    def _choice(
        self, index: int, text: str, events: Sequence[TokenEvent], *, chunk: bool
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index}
        logprobs = None
        if self.asked.logprobs is not None and (events or not chunk):
            logprobs = self._logprobs(index, events)
        if not self.asked.chat:
            choice["text"] = text
        elif chunk:
            delta: dict[str, Any] = {} if index in self._begun else {"role": "assistant"}
            self._begun.add(index)
            if text or "role" in delta:
                delta["content"] = text
            choice["delta"] = delta
        else:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        return {**choice, "logprobs": logprobs, "finish_reason": None}

    def _logprobs(self, index: int, events: Sequence[TokenEvent]) -> dict[str, Any]:
        if self.asked.chat:
            content = []
            for event in events:
                entry = self._entry(event.token, event.logprob)
                entry["top_logprobs"] = [self._entry(token, p) for token, p in event.top]
                content.append(entry)
            return {"content": content, "refusal": None}
        offsets = []
        for event in events:
            offsets.append(self._lengths.setdefault(index, 0))
            self._lengths[index] += len(event.text)
        named = self.asked.logprobs
        return {
            "tokens": [self._word(event.token) for event in events],
            "token_logprobs": [number(event.logprob) for event in events],
            "top_logprobs": [
                {self._word(token): number(p) for token, p in event.top} for event in events
            ] if named else None,
            "text_offset": offsets,
        }  # fmt: skip

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        word = self._word(token)
        whole = not word.startswith("token_id:")
        return {
            "token": word, "logprob": number(logprob),
            "bytes": list(word.encode("utf-8", "replace")) if whole else None,
        }  # fmt: skip

    def _word(self, token: int) -> str:
        """A token on its own; one that is no text, such as an end or half a character, by its id."""
        word = self.text.decode([token])
        return word if word and "\ufffd" not in word else f"token_id:{token}"

    def _shown(self, events: Sequence[TokenEvent], result: Result | None) -> dict[str, Any]:
        """The field `bild` of a choice; empty where nothing of it was asked for."""
        show, shown = self.asked.show, dict[str, Any]()
        if show.tokens and events:
            shown["tokens"] = [provenance(event) for event in events]
        if show.trace and result is not None:
            shown["trace"] = dataclasses.asdict(result.trace)
            shown["finish_reason"] = result.finish_reason.value
        return shown


def provenance(event: TokenEvent) -> dict[str, Any]:
    """Who wrote a token, and what the two models thought of it."""
    return {
        "position": event.position, "token": event.token, "text": event.text,
        "source": event.source.value, "confidence": number(event.confidence),
        "distance": number(event.distance),
    }  # fmt: skip


def usage(asked: Asked, planned: Sequence[Plan], results: Sequence[Result]) -> dict[str, int]:
    """Counts of tokens: each prompt once, each text as often as it is given."""
    prompt = completion = 0
    for plan, result in zip(planned, results, strict=True):
        first = plan.choices[0] % asked.n == 0
        prompt += result.prompt_tokens if first else 0
        completion += len(result.tokens) * len(plan.choices)
    return {
        "prompt_tokens": prompt, "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }  # fmt: skip


def sse(body: dict[str, Any]) -> bytes:
    """One event of a stream."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode("utf-8", "replace")
