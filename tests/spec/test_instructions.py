"""Instructions: what a draft is calibrated with is varied, the same every time, and held out."""

from collections import Counter

import pytest

from bild_dist.evaluation.bench import prompts as bench
from bild_dist.evaluation.corpora import everyday, forms, instructions, named
from bild_dist.evaluation.corpora.debian import Description

SUBJECTS = ("birds", "stars", "trains", "maps", "sounds", "plants", "letters", "clocks", "rivers")
VERBS = ["counts", "draws", "sorts", "plays", "prints", "reads", "finds", "names", "moves", "keeps"]
STEMS = ["qu" + a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]


def described(stem: str, number: int) -> Description:
    subject, verb = SUBJECTS[number % len(SUBJECTS)], VERBS[number % len(VERBS)]
    return Description(
        stem, f"md5-{stem}", f"{stem} {verb} {subject}",
        (f"The program {stem} {verb} {subject} of every kind for people at home. It needs no network and starts "
         "in a moment.",
         "* it is small", "* it is fast"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def records() -> list[Description]:
    """Enough packages for every split: 3,600, each a family of its own."""
    stems = [stem + more for stem in STEMS for more in ("", "an", "er", "il", "os")]
    return [described(stem, number) for number, stem in enumerate(stems)]


@pytest.fixture(scope="module")
def splits(records):
    return {split: list(instructions.instructions(records, split)) for split in named.SPLITS}


def test_the_same_descriptions_give_the_same_prompts_in_any_order(records, splits):
    """The large model's texts are kept by prompt, so a run that goes on must ask the same."""
    again = list(instructions.instructions(reversed(records), "validation"))
    assert again == splits["validation"]


def test_no_prompt_and_no_subject_is_in_two_splits(splits):
    """What is measured on what was learned tells nothing."""
    for of in (lambda e: e.prompt, subject):
        seen = [{of(example) for example in examples} for examples in splits.values()]
        assert sum(map(len, seen)) == len(set.union(*seen))


def subject(example: named.Example) -> str:
    return example.id.split("/", 2)[2]


def test_another_package_in_a_prompt_is_of_the_same_split(records, splits):
    """A comparison would otherwise carry a held-out package into the training."""
    names = {record.package: named.split_of(record.package) for record in records}
    for split, examples in splits.items():
        for example in examples:
            if not example.id.startswith("everyday/"):
                words = example.prompt.replace(":", " ").replace("?", " ").replace(".", " ").split()
                assert {names[word] for word in words if word in names} <= {split}


def test_every_beginning_is_a_fair_mix(splits):
    """`--limit` takes a beginning: half with a description, a quarter by name, a quarter
    everyday.
    """
    for size in (8, 40, 400):
        kinds = Counter(example.id.split("/")[0] for example in splits["train"][:size])
        assert kinds == {"described": size // 2, "named": size // 4, "everyday": size // 4}


def test_a_prompt_is_there_once_and_says_something(splits):
    """Empty and endless prompts teach nothing."""
    for examples in splits.values():
        assert len({example.prompt for example in examples}) == len(examples)
        for example in examples:
            assert len(example.prompt.split()) >= 2
            assert len(example.prompt) <= 1200
            assert "{" not in example.prompt


def test_no_form_is_more_than_a_twentieth(splits):
    """A draft that has seen one form too often guesses its answers and nothing else."""
    uses = Counter(tuple(e.id.split("/")[:2]) for e in splits["train"])
    assert uses.most_common(1)[0][1] <= 0.05 * len(splits["train"])
    assert len(uses) >= 150


def test_there_are_thousands_of_everyday_requests():
    """People ask the default pair about everything, and rarely about packages."""
    sizes = {split: len(list(everyday.requests(split))) for split in named.SPLITS}
    assert sizes["train"] >= 5000
    assert min(sizes.values()) >= 200


def test_what_is_measured_with_is_never_learned():
    """`bild bench` asks its built-in prompts of a draft that has not seen them."""
    asked = {request.prompt for split in named.SPLITS for request in everyday.requests(split)}
    assert not asked & set(bench.BUILT_IN)


def test_every_gap_of_an_everyday_form_can_be_filled():
    """A form with an unknown gap would stop a run after hours."""
    for form in everyday.all_forms():
        assert forms.gaps(form) <= forms.drawn() | {"x", "y"}, form


def test_texts_are_cut_behind_a_sentence():
    """A prompt of less than 300 tokens leaves room for the answer, and half a sentence is no
    text.
    """
    long = "This sentence has seven words in it. " * 60
    records = [
        Description(stem, stem, f"tool {stem}", (f"{stem} is here. {long}",))
        for stem in STEMS[:200]
    ]
    for example in instructions.instructions(records, "train"):
        assert len(example.prompt) <= instructions.CHARACTERS + 250
        if example.id.startswith("described/2/"):
            assert example.prompt.endswith(".")


def test_what_is_no_prose_is_left_out():
    """Addresses, tables and what hundreds of packages say are many tokens and little language."""
    body = (
        "* an item before any sentence", "The tool draws maps of rivers and lakes for people who walk there in summer.",
        "See https://example.org for more. This package contains the library. 12 34 56 78 90 | 11 22.",
    )  # fmt: skip
    records = [
        Description(stem, stem, f"maps {stem}", (*body[:1], f"{stem} is new. {body[1]}", body[2]))
        for stem in STEMS
    ]
    examples = instructions.instructions(records, "train")
    prompts = [example.prompt for example in examples if example.id.startswith("described/")]
    assert prompts
    assert not [
        p for p in prompts if "https" in p or "contains" in p or "12 34" in p or "* an" in p
    ]


def test_without_packages_nothing_is_asked():
    """No mix can be made of everyday requests alone."""
    assert list(instructions.instructions([], "train")) == []
