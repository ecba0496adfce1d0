"""From descriptions to pairs of texts: German to English sentences, long to short descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from bild_dist.evaluation.corpora.debian import Description

WORDS: Final = (1, 60)
"""Least and most words of a sentence, in either language."""
DOCUMENT: Final = (20, 400)
SUMMARY: Final = (3, 20)
_RATIO: Final = 2.5
"""A sentence that is longer than its translation by more than this is no translation of it."""

_END: Final = re.compile(r"(?<=[.!?])\s+(?=[\"'(„»]?[A-ZÄÖÜ0-9])")
_SHORTHAND: Final = re.compile(
    r"(?:\b(?:z\. ?B|d\. ?h|u\. ?a|o\. ?ä|bzw|usw|ca|inkl|bspw|evtl|ggf|vgl|Nr|Abk|engl|e\.g|i\.e|etc|cf|vs|"
    r"approx|incl|resp|Dr|St|No|[A-Z])|\d)\.$"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A text of a package, and what should be written for it."""

    package: str
    source: str
    target: str


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph. A full stop after a known shorthand or a number ends none."""
    found: list[str] = []
    for piece in _END.split(text):
        if found and _SHORTHAND.search(found[-1]):
            found[-1] += f" {piece}"
        else:
            found.append(piece)
    return found


def translations(german: Iterable[Description], english: Iterable[Description]) -> Iterator[Pair]:
    """Sentences of descriptions that exist in both languages, where paragraphs and sentences count
    alike.
    """
    known = {entry.md5: entry for entry in english if entry.md5}
    for entry in german:
        other = known.get(entry.md5)
        if other is None:
            continue
        yield from _checked(entry.package, [(entry.short, other.short)])
        if len(entry.body) == len(other.body):
            for ours, theirs in zip(entry.body, other.body, strict=True):
                yield from sentence_pairs(entry.package, ours, theirs)


def sentence_pairs(package: str, source: str, target: str) -> Iterator[Pair]:
    """The sentences of two paragraphs, if there are as many in both."""
    left, right = sentences(source), sentences(target)
    if len(left) == len(right):
        yield from _checked(package, zip(left, right, strict=True))


def summaries(english: Iterable[Description]) -> Iterator[Pair]:
    """Long description to short one: one a package name, one a document and one a first
    paragraph.
    """
    seen: set[str] = set()
    for entry in english:
        document = _clean(" ".join(entry.body))
        keys = {f"p {entry.package}", f"d {document}", f"f {entry.body[0] if entry.body else ''}"}
        if seen & keys:
            continue
        if _within(document, DOCUMENT) and _within(entry.short, SUMMARY):
            seen |= keys
            yield Pair(entry.package, document, _clean(entry.short))


def _checked(package: str, found: Iterable[tuple[str, str]]) -> Iterator[Pair]:
    for source, target in found:
        if _alike(source, target):
            yield Pair(package, _clean(source), _clean(target))


def _alike(source: str, target: str) -> bool:
    if source == target or not (_within(source, WORDS) and _within(target, WORDS)):
        return False
    longer, shorter = sorted((len(source), len(target)), reverse=True)
    return longer <= _RATIO * shorter + 10 and any(c.isalpha() for c in source)


def _within(text: str, bounds: tuple[int, int]) -> bool:
    return bounds[0] <= len(text.split()) <= bounds[1]


def _clean(text: str) -> str:
    return " ".join(text.removeprefix("* ").split())
