"""Prompts for a model that follows instructions: half of them with the description of a package in
the prompt, a quarter about a package by name, a quarter everyday ones.

A draft is aligned to what its large model writes for them, so they need no answers: what counts is
that they are as varied as what people ask. Every choice is drawn from a generator seeded by the
name of the package, so the same descriptions give the same prompts.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final

from bild_dist.evaluation.corpora import everyday
from bild_dist.evaluation.corpora.debian import Description
from bild_dist.evaluation.corpora.forms import fill
from bild_dist.evaluation.corpora.named import Example, split_of
from bild_dist.evaluation.corpora.pairs import sentences

WORDS: Final = (15, 130)
"""Least and most words of a description in a prompt; longer ones are cut after a sentence."""
CHARACTERS: Final = 800
"""Most characters of it. With the instruction around it that is 300 tokens at most."""
PROSE: Final = 0.85
"""Least share of letters and blanks in a sentence."""
SHORTEST_ASKED: Final = 30
"""Characters of a question about a package, so that it says what it is about."""

_BLOCK: Final = ("described", "named", "described", "everyday")
"""What follows what: any few prompts from the beginning are a fair mix."""
_PARTS: Final = re.compile(
    r"-(?:dev|docs?|dbg|dbgsym|prof|data|common|examples|headers|l10n|i18n|locale|all|source|tests?|plugins?|perl|"
    r"java|static|bin|utils?|base|core|libs?|gtk\d?|qt\d?)\b|^(?:lib|task-|fonts-|golang-|node-|ruby-|python3?-|elpa-|"
    r"r-(?:cran|bioc)-|linux-|texlive-|gir1|php-|gcc-|haskell-|kde-|gnome-shell-)|\d{3}|-.*-"
)
"""Names of packages that are a part of something, or that nobody says."""
_NOT_PROSE: Final = re.compile(
    r"https?://|<[^>]+>|\b(?:dummy|transitional|meta-?package|debcargo)\b", re.IGNORECASE
)
_BOILERPLATE: Final = re.compile(
    r"^(?:This (?:is a |dependency |meta)?package (?:contains|provides|includes|installs|depends|is)|"
    r"This is the )", re.IGNORECASE,
)  # fmt: skip
"""Sentences that hundreds of packages share: what is in the package, not what it is."""

_DESCRIBED: Final = (
    "Explain the following to {who}: {text}",
    "Explain in {size} what this program does.\n\n{text}",
    "Summarise the following text in {size}.\n\n{text}",
    "{text}\n\nSummarise this in {size}.",
    "What is the main point of this text?\n\n{text}",
    "Rewrite the following text for {who}.\n\n{text}",
    "Rewrite this as an advertisement:\n\n{text}",
    "Rewrite the text below more formally.\n\nText: {text}",
    "Rewrite this in a {tone} tone: {text}",
    "Make this shorter and easier to read:\n{text}",
    "{text}\n\nList {few} features that the text mentions.",
    'Here is what {name} says of itself: "{text}" List {few} reasons to use it.',
    "List the steps that somebody would take to try this out.\n\n{text}",
    "What might be the disadvantages of this? Name {few}.\n\n{text}",
    "Continue this text:\n\n{lead}",
    "Continue the following description with two more sentences. {lead}",
    "Complete the text: {start}",
    "What is {name} for? Use this description: {text}",
    "Who would use this, and for what?\n\n{text}",
    "Read the text and answer the question.\n\nText: {text}\n\nQuestion: What can {name} do?\nAnswer:",
    "Which problem does {name} solve?\n\n{text}",
    "{text}\n\nAccording to this text, is {name} meant for beginners or for experts? Why?",
    "Write {few} questions that this text answers, with the answers.\n\n{text}",
    "Compare these two programs.\n\n1. {name}: {lead}\n\n2. {other}: {other_lead}",
    "Which of the two would you choose, and why?\n\n{name}: {lead}\n{other}: {other_lead}",
    "Find a title for this text and explain your choice.\n\n{text}",
    "Suggest {few} titles for an article about this:\n\n{text}",
    "Extract the {few} most important keywords from this text: {text}",
    "Explain the difficult words in this text.\n\n{text}",
    "Turn this description into a dialogue between a user and a developer.\n\n{text}",
    "Write a {tone} e-mail to {recipient} that recommends this program.\n\n{text}",
    "Write a short FAQ with {few} questions from this text:\n\n{text}",
    "Write a tweet about this:\n\n{text}",
    "Write a short news item about a new version of this program.\n\n{text}",
    "Write a product review of this with {few} stars out of seven.\n\n{text}",
    "Into which category does this program belong: games, science, office, graphics, sound, network, development or "
    "system? Explain.\n\n{text}",
    "Turn this into bullet points:\n\n{text}",
    "Write {poem} about this program.\n\n{text}",
    "Write a story of one paragraph in which somebody uses this: {text}",
    "Ask {few} questions that {who} might have after reading this.\n\n{text}",
)
_NAMED: Final = (
    "What is {name}? I was told that it is \"{short}\".",
    "What is the program {name} for, and who would use it?",
    "Explain to {who} what {name} is ({short}).",
    "Tell me about the program {name} in {size}.",
    "How do I install and start {name} on Debian?",
    "List {few} things that one can do with {name} ({short}).",
    "Give {few} reasons to use {name}, and one not to.",
    "What is the difference between the programs {name} and {other}?",
    "Compare {name} ({short}) with {other} ({other_short}).",
    "Write a {tone} e-mail to {recipient} about {name}, a program: {short}.",
    "Write a short FAQ about {name} ({short}).",
    "Write a tutorial in {few} steps for {name} ({short}).",
    "{name} does not start on my computer. What should I check?",
    "Name {few} alternatives to {name} ({short}).",
    "Write a tweet that announces version {few} of {name}: {short}.",
    "Invent a slogan for {name}, a program described as \"{short}\".",
    "Write a dialogue between two colleagues who disagree about {name} ({short}).",
    "Write a product description of about 80 words: {name}, {short}.",
    "Explain the words in this line: {name} - {short}.",
    "What do I have to know before I use {name} ({short})?",
    "Write the first paragraph of the manual of {name}, \"{short}\".",
    "Write a bug report for {name} ({short}) about a crash when a file is opened.",
    "Write {poem} about {name} ({short}).",
    "How would a company use {name} ({short})? Give an example.",
)  # fmt: skip


def instructions(records: Iterable[Description], split: str) -> Iterator[Example]:
    """The prompts of a split, in an order in which any beginning is a fair mix; an id says
    `kind/form/subject`.

    They end when there are too few of one kind to go on mixing.
    """
    chosen = _chosen(records, split)
    programs = [entry for entry in chosen if _known(entry)]
    parts = [entry for entry in chosen if not _known(entry)]
    # Every other description is a program's; libraries outnumber them by four to one.
    described = [entry for both in zip_longest(programs, parts) for entry in both if entry]
    kinds = {
        "described": _asked(described, _DESCRIBED, "described"),
        "named": _asked(sorted(programs, key=_apart), _NAMED, "named"),
        "everyday": iter(_everyday(split)),
    }
    seen: set[str] = set()
    while True:
        block: list[Example] = []
        for kind in _BLOCK:
            fresh = (example for example in kinds[kind] if example.prompt not in seen)
            example = next(fresh, None)
            if example is None:
                return
            seen.add(example.prompt)
            block.append(example)
        yield from block


def _chosen(records: Iterable[Description], split: str) -> list[Description]:
    """Packages that a text can be made of, mixed; one of those that share a text or a short
    description.
    """
    texts: set[str] = set()
    packages: set[str] = set()
    found: list[Description] = []
    for entry in sorted(records, key=lambda entry: _mixed(f"{entry.package} {entry.md5}")):
        if entry.package in packages or split_of(entry.package) != split:
            continue
        text = _text(entry)
        if len(text.split()) < WORDS[0] or text in texts or entry.short in texts:
            continue
        packages.add(entry.package)
        texts |= {text, entry.short}
        found.append(entry)
    return found


def _known(entry: Description) -> bool:
    return not _PARTS.search(entry.package) and len(entry.short.split()) > 1


def _apart(entry: Description) -> str:
    """Another order than that of the descriptions, so that a package's two prompts are not
    neighbours.
    """
    return _mixed(f"named {entry.package}")


def _asked(chosen: Sequence[Description], forms: Sequence[str], kind: str) -> Iterator[Example]:
    """One prompt a package; the forms take turns in an order that changes with every round."""
    for place, entry in enumerate(chosen):
        turn, number = divmod(place, len(forms))
        order = list(range(len(forms)))
        random.Random(f"bild-dist {kind} {turn}").shuffle(order)
        form = order[number]
        # The neighbour is of the same split, so nothing held out is in a training prompt.
        prompt = _filled(forms[form], entry, chosen[place - 1])
        if len(prompt) >= SHORTEST_ASKED:
            yield Example(f"{kind}/{form}/{entry.package}", prompt)


def _everyday(split: str) -> list[Example]:
    asked = [
        Example(f"everyday/{found.form}/{found.subject}", found.prompt)
        for found in everyday.requests(split)
    ]
    return sorted(asked, key=lambda example: _mixed(example.prompt))


def _filled(form: str, entry: Description, other: Description) -> str:
    chance = random.Random(f"bild-dist {form} {entry.package}")
    text = _text(entry)
    words = text.split()
    known = {
        "name": entry.package, "other": other.package, "short": entry.short, "other_short": other.short,
        "text": text, "lead": _lead(text), "other_lead": _lead(_text(other)),
        "start": " ".join(words[: max(8, len(words) // 2)]),
    }  # fmt: skip
    return fill(form, known, chance)


def _lead(text: str) -> str:
    """Its first sentence, without a list that belongs to it."""
    return sentences(text)[0].split("\n")[0]


def _text(entry: Description) -> str:
    """As much of a description as a prompt may hold: whole sentences, the first one no list item,
    without what hundreds of packages share.
    """
    found: list[str] = []
    words = characters = 0
    for paragraph in entry.body:
        item = paragraph.startswith("* ")
        if item and not found:
            continue
        for sentence in [paragraph] if item else sentences(" ".join(paragraph.split())):
            if not _is_prose(sentence) or _BOILERPLATE.match(sentence):
                continue
            words += len(sentence.split())
            characters += len(sentence) + 1
            if words > WORDS[1] or characters > CHARACTERS:
                return _joined(found)
            found.append(sentence)
    return _joined(found)


def _joined(found: Sequence[str]) -> str:
    return " ".join(found).replace(" * ", "\n* ")


def _is_prose(sentence: str) -> bool:
    """No address, no table and no command line: those are many tokens and little language."""
    letters = sum(character.isalpha() or character == " " for character in sentence)
    return (
        letters >= PROSE * len(sentence) and sentence[0] != "(" and not _NOT_PROSE.search(sentence)
    )


def _mixed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
