"""Corpora: what becomes of package descriptions, and that nothing is in two splits."""

import shutil
import subprocess
from itertools import combinations

import pytest

from bild_dist.errors import ConfigError
from bild_dist.evaluation.corpora import archive, debian, libreoffice, named, pairs
from bild_dist.evaluation.corpora.debian import Description

INDEX = """Package: libgreet2
Description-md5: 1234
Description-en: says hello
 This library says hello. It knows e.g. German; it has version 2. It is small!
 .
 Its parts:
  * one
    that goes on
  - two

Package: empty
Description-md5: 99

"""


def test_an_index_is_read_by_paragraphs():
    """A dot parts paragraphs, lines go on, and a list item stands for itself."""
    (entry,) = debian.parse(INDEX, "en")
    assert (entry.package, entry.md5, entry.short) == ("libgreet2", "1234", "says hello")
    assert entry.body[1:] == ("Its parts:", "* one", "that goes on", "* two") or entry.body[1:] == (
        "Its parts:", "* one that goes on", "* two",
    )  # fmt: skip


def test_other_languages_are_left_out():
    """An English index has nothing to say in German."""
    assert list(debian.parse(INDEX, "de")) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("It knows e.g. German and i.e. nothing else.", 1),
        ("Das ist z.B. Text. Und noch einer.", 2),
        ("Version 2. It is small.", 1),
        ("no end", 1),
    ],
)
def test_sentences_end_where_they_end(text, count):
    """A full stop after a shorthand or a number ends no sentence."""
    assert len(pairs.sentences(text)) == count


def _described(package, md5, short, *body):
    return Description(package, md5, short, body)


def test_translations_come_where_paragraphs_and_sentences_agree():
    """Paragraphs with another count of sentences are left out; the short ones still pair."""
    german = [
        _described("a", "1", "sagt Hallo", "Ein Satz. Noch einer.", "Nur einer."),
        _described("b", "2", "allein"),
    ]
    english = [_described("a", "1", "says hello", "One sentence. Another one.", "One. Two.")]
    assert [(p.source, p.target) for p in pairs.translations(german, english)] == [
        ("sagt Hallo", "says hello"),
        ("Ein Satz.", "One sentence."),
        ("Noch einer.", "Another one."),
    ]


def test_help_pages_are_read_by_their_ids():
    """Paragraphs and headings with an id, without mark-up; other text is left out."""
    page = (
        '<html><h1 id="h">The <b>title</b></h1><p id="p1" class="x">Click <span>Open\n&amp; wait</span>.</p>'
        '<p>no id</p>text<p id="p2"></p></html>'
    )
    assert libreoffice.paragraphs(page) == {"h": "The title", "p1": "Click Open & wait.", "p2": ""}


def test_a_document_is_summarised_once():
    """One pair a document, and none where the text is too short."""
    long = "word " * 30
    found = list(
        pairs.summaries(
            [
                _described("a", "1", "three short words", long),
                _described("b", "2", "three other words", long),
                _described("c", "3", "also three words", "too short"),
            ]
        )
    )
    assert [p.package for p in found] == ["a"]


@pytest.mark.parametrize(
    "package", ["foo", "libfoo2", "libfoo-dev", "python3-foo", "golang-foo-bar", "r-cran-foo"]
)
def test_packages_of_one_source_are_one_family(package):
    """Prefixes and suffixes by which Debian splits a source do not make a family."""
    assert debian.family(package) == "foo"


def test_nothing_is_in_two_splits():
    """Neither families nor sources nor targets are shared between what trains and what tests."""
    found = [
        pairs.Pair(
            f"lib{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{tail}",
            f"source {n if n % 5 else 0} {tail}",
            f"target {n if n % 3 else 0}",
        )
        for n in range(2000)
        for tail in ("", "-dev")
    ]
    splits = named.divided(found)
    assert all(splits.values())
    for what in (lambda p: debian.family(p.package), lambda p: p.source, lambda p: p.target):
        sets = [{what(pair) for pair in splits[split]} for split in named.SPLITS]
        for one, other in combinations(sets, 2):
            assert not one & other


def test_unknown_names_are_refused_with_the_nearest():
    """A misspelt corpus or split is named, with what there is."""
    with pytest.raises(ConfigError, match="debian-de-en"):
        named.load("debian-de-em", "train")
    with pytest.raises(ConfigError, match="validation"):
        named.load("debian-de-en", "dev")


def test_without_an_archive_the_error_says_what_to_do(monkeypatch, tmp_path):
    """No network, no apt, no Debian: each is said, and nothing half-made stays behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="apt-get, which is not here"):
        debian.descriptions("en")
    monkeypatch.setattr(shutil, "which", lambda name: name)

    def run(words, **_):
        return subprocess.CompletedProcess(words, 100, "", "E: no such host")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ConfigError, match=archive.MIRROR):
        debian.descriptions("en")
    monkeypatch.setenv(archive.MIRROR, "http://archive.invalid/debian")
    with pytest.raises(ConfigError, match=r"archive\.invalid.*no such host"):
        debian.descriptions("en")
    assert not any((tmp_path / "bild-dist" / "corpora" / "debian").iterdir())


def test_a_corpus_is_made_once(monkeypatch, tmp_path):
    """From indexes that are there already, without any fetching; the second time from its own
    file.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lists = archive.cache_folder() / "debian" / "lists"
    lists.mkdir(parents=True)
    for language, word in (("en", "word"), ("de", "Wort")):
        text = "".join(
            f"Package: p{chr(97 + n % 26)}{chr(97 + n // 26)}\nDescription-md5: {n}\nDescription-{language}: "
            f"{word} {n} three four\n {word} {n} is here.\n\n"
            for n in range(600)
        )
        (lists / f"archive_dists_sid_main_i18n_Translation-{language}").write_text(text)
    first = {split: named.load("debian-de-en", split) for split in named.SPLITS}
    assert all(first.values())
    assert first["train"][0].prompt.startswith("Wort")
    for file in lists.iterdir():
        file.unlink()
    assert {split: named.load("debian-de-en", split) for split in named.SPLITS} == first
