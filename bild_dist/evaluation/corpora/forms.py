"""Forms: texts with gaps, of which prompts are made.

A gap is a name in braces. What a form is about is given by name; everything else is drawn from the
lists below.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Final

_GAP: Final = re.compile(r"\{(\w+)\}")


def fill(form: str, known: Mapping[str, str], chance: random.Random) -> str:
    """A form without gaps: what is `known` by name, the rest drawn. It begins with a capital."""

    def filler(gap: re.Match[str]) -> str:
        if gap[1] in known:
            return known[gap[1]]
        return chance.choice(_FILLERS[gap[1]])

    prompt = _GAP.sub(filler, form)
    return prompt[0].upper() + prompt[1:]


def gaps(form: str) -> set[str]:
    """The names of a form's gaps."""
    return set(_GAP.findall(form))


def drawn() -> set[str]:
    """The gaps that need not be known."""
    return set(_FILLERS)


def listed(text: str) -> tuple[str, ...]:
    """What stands between semicolons."""
    return tuple(part.strip() for part in text.split(";") if part.strip())


_FILLERS: Final = {
    "few": listed("two; three; four; five; six; seven"),
    "number": tuple(map(str, range(2, 61))),
    "count": tuple(map(str, range(2, 21))),
    "who": listed(
        "a child; a ten-year-old; a beginner; a curious adult; my grandmother; a student; a busy manager; a class of "
        "teenagers; somebody who has never heard of it; an expert in another field"
    ),
    "size": listed(
        "one sentence; two sentences; three sentences; one paragraph; about 50 words; about 100 words; simple words; "
        "a few bullet points"
    ),
    "tone": listed("friendly; formal; funny; cheerful; calm; polite; jubilant; sober; warm; dramatic"),
    "place": listed(
        "a small village; a busy railway station; a space station; a desert town; an old library; a fishing harbour; "
        "a snowy forest; a castle; a school; a market; a submarine; a night train; a hospital; an island"
    ),
    "person": listed(
        "Anna; Ben; Clara; Daniel; Elif; Farid; Grace; Hiroshi; Ines; Jonas; Kofi; Leila; Maria; Nikolai; Olivia; "
        "Pedro; Quinn; Ravi; Sofia; Tom"
    ),
    "recipient": listed(
        "a friend; my landlord; a colleague; my teacher; customer service; my boss; a relative; the city council; an "
        "old schoolmate; the whole team"
    ),
    "poem": listed("a poem; a haiku; a limerick; a short song; two rhyming lines; a poem of eight lines"),
    "style": listed(
        "with an example; with comments; with type hints; with a docstring; without any imports; and explain it line "
        "by line; and show how to call it; as short as possible"
    ),
    "language": listed("JavaScript; Java; C; Go; Rust; Ruby; a shell script; TypeScript"),
}  # fmt: skip
"""What fills the gaps of a form."""
