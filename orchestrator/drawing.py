"""A recording as files that people look at: a page for a browser, and a trace for Perfetto.

The page is one file and asks for no other. Texts in it are hostile: they travel as JSON in ASCII
with every `<` escaped, and the page's script puts them in place as text, never as markup.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.orchestrator.recording import Recording
from bild_dist.orchestrator.story import WASTED, Block, Kind, Story
from bild_dist.orchestrator.text import Text
from bild_dist.orchestrator.timeline import stories
from bild_dist.types import Role

PROMPT_SHOWN: Final = 600
"""Characters of a prompt that are shown."""
PARTS: Final = {
    "/*COLOURS*/": "colours.css",
    "/*STYLE*/": "timeline.css",
    "/*DRAWING*/": "timeline.js",
    "/*HANDS*/": "timeline_hands.js",
}
"""Where the parts of the page go in `timeline.html`."""
_BROKEN: Final = "\ufffd"


class Drawing:
    """A recording on its way into files. Owned by the command that was asked for it.

    `path` names the page; the trace goes beside it, with the ending `.json`. `others` are files
    that the command reads or writes itself.

    Raises:
        ConfigError: nothing can be written there. Nothing has been written by then.
    """

    def __init__(self, path: str, others: Iterable[str | None] = ()) -> None:
        self.recording = Recording()
        self._page = Path(path)
        if self._page.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"--timeline {path!r} must end in .html: it becomes a page")
        self._trace = self._page.with_suffix(".json")
        taken = {Path(other).resolve() for other in others if other is not None}
        for file in (self._page, self._trace):
            if file.resolve() in taken:
                raise ConfigError(f"--timeline writes {file} too, which is --input or --output")
            if (problem := _problem(file)) is not None:
                raise ConfigError(f"--timeline {path} cannot be written: {file} {problem}")

    def write(self, text: Text | None) -> None:
        """Writes both files. `text` turns ids into words.

        Raises:
            ConfigError: the files cannot be written after all.
        """
        told = stories(self.recording.moments)
        words = text if text is not None else Text.from_files({})
        try:
            self._page.write_text(page(told, words, self.recording.missed), encoding="utf-8")
            self._trace.write_text(json.dumps(trace(told, words)), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--timeline {self._page} cannot be written: {error}") from None


def _problem(file: Path) -> str | None:
    """Why a file cannot be written, without touching it."""
    if file.is_dir():
        return "is a folder"
    if file.exists():
        return None if os.access(file, os.W_OK) else "is write-protected"
    if not file.parent.is_dir():
        return "lies in a folder that does not exist"
    return None if os.access(file.parent, os.W_OK | os.X_OK) else "lies in a protected folder"


def page(told: Sequence[Story], text: Text, missed: int = 0) -> str:
    """The page: `timeline.html` with its style, its scripts and the data put in.

    `missed`: moments that the recording had no room for.
    """
    html = _part("timeline.html")
    for place, name in PARTS.items():
        html = html.replace(place, _part(name))
    data = json.dumps(as_data(told, text, missed), separators=(",", ":")).replace("<", "\\u003c")
    # Last, so that nothing which the data says is taken for a place to fill.
    return html.replace("/*DATA*/", data)


def _part(name: str) -> str:
    return files("bild_dist.orchestrator").joinpath(name).read_text(encoding="utf-8")


def as_data(told: Sequence[Story], text: Text, missed: int) -> dict[str, Any]:
    """What the page shows, as JSON. Times are ns since the recording began."""
    zero_ns = min((story.from_ns for story in told), default=0)
    tokens = {chip.token for story in told for chip in story.chips}
    for story in told:
        tokens |= {cell.token for block in story.blocks for cell in block.cells}
        tokens |= {block.low[0] for block in story.blocks if block.low is not None}
        tokens |= {block.check.token for block in story.blocks if block.check is not None}
    return {
        "missed": missed,
        "words": {token: word(text, token) for token in sorted(tokens) if token >= 0},
        "requests": [_request(story, text, zero_ns) for story in told],
    }


def _request(story: Story, text: Text, zero_ns: int) -> dict[str, Any]:
    """One request. What it ends with is computed here, so that both files agree."""
    stream = text.stream()
    pieces = [stream.push(chip.token) for chip in story.chips]
    if pieces:
        pieces[-1] += stream.finish()
    prompt = text.decode(story.prompt) or " ".join(str(token) for token in story.prompt)
    return {
        "session": story.session,
        "prompt": _cut(prompt),
        "from": story.from_ns - zero_ns,
        "to": story.to_ns - zero_ns,
        "end": story.end,
        "failed": story.failed,
        "roles": story.roles,
        "blocks": [_plain(asdict(block), zero_ns) for block in story.blocks],
        "chips": [
            {**_plain(asdict(chip), zero_ns), "text": piece}
            for chip, piece in zip(story.chips, pieces, strict=True)
        ],
        "swaps": [_plain(asdict(swap), zero_ns) for swap in story.swaps],
        "waits": [_plain(asdict(wait), zero_ns) for wait in story.waits],
        "totals": totals(story),
    }


def _cut(prompt: str) -> str:
    """Beginning and end of a long prompt: where a chat template stands before it, it is at the end."""
    half = PROMPT_SHOWN // 2
    return prompt if len(prompt) <= 2 * half else f"{prompt[:half]} … {prompt[-half:]}"


def totals(story: Story) -> dict[str, Any]:
    """The figures of one request. Shares are of its wall time, or of what was drafted."""
    wall_ns = story.to_ns - story.from_ns
    drafted = story.guesses()
    wasted = sum(cell.fate in WASTED for cell in drafted)
    tokens, passes = len(story.chips), story.passes(Role.LARGE)
    waited = {
        "small": story.waited_ns(Role.SMALL),
        "large": story.waited_ns(Role.LARGE),
        "both": story.waited_ns(Role.SMALL, Role.LARGE),
    }
    return {
        "wall_ns": wall_ns,
        "tokens": tokens,
        "small_busy_ns": story.busy_ns(Role.SMALL),
        "large_busy_ns": story.busy_ns(Role.LARGE),
        "small_passes": story.passes(Role.SMALL),
        "large_passes": passes,
        "large_passes_a_token": passes / tokens if tokens else None,
        "drafted": len(drafted),
        "wasted": wasted,
        "rollbacks": sum(swap.source == "rollback" for swap in story.swaps),
        "waited_ns": waited,
        "own_ns": max(wall_ns - sum(waited.values()), 0),
    }


def _plain(values: Mapping[str, Any], zero_ns: int) -> dict[str, Any]:
    """Moments count from the beginning of the recording; the name of a span of time says so."""
    spans = ("wire_ns",)
    out: dict[str, Any] = {}
    for name, value in values.items():
        if name.endswith("_ns") and name not in spans:
            out[name.removesuffix("_ns")] = value - zero_ns
        else:
            out[name] = _finite(value)
    return out


def _finite(value: Any) -> Any:
    """JSON knows no infinity: it becomes a text."""
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def word(text: Text, token: int) -> str:
    """How one token reads, `⟨7⟩` where it writes nothing by itself.

    Tokenizers drop the leading space of a text, so the token is read behind itself.
    """
    once, twice = text.decode([token]), text.decode([token, token])
    read = twice[len(once) :] if twice.startswith(once) else once
    return read if read and _BROKEN not in read else f"⟨{token}⟩"


def trace(told: Sequence[Story], text: Text) -> dict[str, Any]:
    """Chrome's trace format: a process per request, a thread per worker and one for the text.

    Times are µs since the recording began. Source: the "Trace Event Format" document.
    """
    zero_ns = min((story.from_ns for story in told), default=0)
    events: list[dict[str, Any]] = []
    for story in told:
        pid = story.session
        events += [_name(pid, 0, "process_name", f"request {pid}")]
        for tid, name in ((1, "small"), (2, "large"), (3, "text")):
            events += [_name(pid, tid, "thread_name", name)]
            events += [{"ph": "M", "pid": pid, "tid": tid, "name": "thread_sort_index", "ts": 0,
                        "args": {"sort_index": tid}}]  # fmt: skip
        events += [_complete(pid, block, text, zero_ns) for block in story.blocks]
        for position, chip in enumerate(story.chips):
            events.append(
                {
                    "ph": "i", "s": "t", "pid": pid, "tid": 3, "cat": chip.source.value,
                    "name": word(text, chip.token), "ts": (chip.at_ns - zero_ns) / 1e3,
                    "args": {"position": position, "token": chip.token, "source": chip.source.value},
                }
            )  # fmt: skip
        for swap in story.swaps:
            events.append(
                {
                    "ph": "i", "s": "p", "pid": pid, "tid": 2, "cat": "replaced",
                    "name": f"{word(text, swap.old)} → {word(text, swap.new)}",
                    "ts": (swap.at_ns - zero_ns) / 1e3,
                    "args": {"position": swap.position, "source": swap.source.value, "fell": swap.fell},
                }
            )  # fmt: skip
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _name(pid: int, tid: int, kind: str, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": pid, "tid": tid, "name": kind, "ts": 0, "args": {"name": name}}


def _complete(pid: int, block: Block, text: Text, zero_ns: int) -> dict[str, Any]:
    said: dict[str, Any] = {"epoch": block.epoch, "seq": block.seq, "passes": block.passes}
    said["queue_us"] = (block.start_ns - block.came_ns) / 1e3
    said["wire_us"] = block.wire_ns / 1e3
    if block.kind in (Kind.DRAFT, Kind.WRITE):
        said["tokens"] = [word(text, cell.token) for cell in block.cells]
        said["fates"] = [cell.fate.value for cell in block.cells]
    if block.check is not None:
        said |= {"checked": len(block.check.exact), "accepted": block.check.accepted}
    return {
        "ph": "X", "pid": pid, "tid": 1 if block.role is Role.SMALL else 2, "cat": block.role.value,
        "name": block.kind.value, "ts": (block.start_ns - zero_ns) / 1e3,
        "dur": (block.end_ns - block.start_ns) / 1e3, "args": said,
    }  # fmt: skip
