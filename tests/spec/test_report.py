"""`bild report` over runs of a tiny random pair: which tables and figures come of them, and as what."""

from __future__ import annotations

import asyncio
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from math import inf
from pathlib import Path
from typing import Any

import pytest

from bild_dist.app import inproc
from bild_dist.config import settled
from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics import registry
from bild_dist.evaluation.report import markdown, page
from bild_dist.evaluation.report.files import Found, read
from bild_dist.evaluation.report.main import main
from bild_dist.evaluation.report.models import Items, models_of
from bild_dist.evaluation.report.report import Section, sections
from bild_dist.evaluation.report.runs import Kind, equal, kind_of, studies
from bild_dist.evaluation.run.figures import Judge, Written
from bild_dist.evaluation.run.record import Part, Record, Setting, TextRecord
from bild_dist.evaluation.run.running import write as written
from bild_dist.evaluation.sweep.grid import front
from bild_dist.evaluation.tasks.base import Item
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Mode, Options, Role, Schedule
from tests.tiny import write_pair

# The first test decodes for all of them.
pytestmark = pytest.mark.timeout(240)

ITEMS = [
    Item("one", "the quick brown fox jumps", ("the lazy dog sleeps",)),
    Item("two", "wires <b>and</b> waves", ("waves",)),
]
LARGE = Setting("large", Options(mode=Mode.LARGE, max_new_tokens=10))
SETTINGS = [
    *(
        Setting.of(Options(alpha_fb=fb, alpha_rb=rb, max_new_tokens=10, schedule=Schedule.PAPER))
        for fb in (0.3, 0.7)
        for rb in (0.5, 3)
    ),
    Setting.of(Options(alpha_rb=inf, max_new_tokens=10)),
    Setting.of(Options(alpha_fb=0, window=3, max_new_tokens=10)),
    # Without drawing, rejection with a fixed window is mode exact on the schedule of the paper.
    Setting(
        "rejection 4",
        Options(mode=Mode.EXACT, window=4, schedule=Schedule.PAPER, max_new_tokens=10),
    ),
    Setting.of(Options(mode=Mode.SMALL, max_new_tokens=10)),
]
DRAWN = Setting("bild nucleus", Options(temperature=1, top_p=0.8, max_new_tokens=10))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of records, made by decoding with one pair as `bild eval` does."""
    folder = tmp_path_factory.mktemp("runs")
    small, large = write_pair(folder / "pair", "bart", noise=0.4, tokenizer=True)
    lines = [{"id": i.id, "prompt": i.prompt, "references": list(i.references)} for i in ITEMS]
    task = folder / "task.jsonl"
    task.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")

    async def all_texts(decoder: Decoder, options: Options) -> list[TextRecord]:
        found = [await written(decoder, item, options) for item in ITEMS]
        return [one for one in found if isinstance(one, TextRecord)]

    async def write() -> list[Record]:
        config, _ = settled({"small": str(small), "large": str(large), "transport": "inproc"})
        async with inproc(config, None) as decoder:
            infos = {role.value: asdict(c.info) for role, c in decoder.workers.items()}
            about: Any = {
                "task": str(task), "split": "all", "models": infos,
                "environment": {"command": f"bild eval --small {small} --large {large}", "cpu": "some"},
            }  # fmt: skip
            drawn_large = Setting("large", replace(DRAWN.options, mode=Mode.LARGE))
            found = []
            for base, settings in ((LARGE, SETTINGS), (drawn_large, [DRAWN])):
                own = await all_texts(decoder, base.options)
                for setting in settings:
                    texts = await all_texts(decoder, setting.options)
                    found.append(record(about, setting, base, texts, own))
            return found

    for number, run in enumerate(asyncio.run(write())):
        run.write(folder / f"{number:02}.json")
    return folder


def record(
    about: Any, setting: Setting, base: Setting, texts: list[TextRecord], own: list[TextRecord]
) -> Record:
    written = Written({text.id: text for text in own}, {})
    judge = Judge(ITEMS, registry.chosen(["bleu", "agreement"], ITEMS), written)
    figures = judge.figures(Written({text.id: text for text in texts}, {}))
    return Record(
        part=Part(setting=setting, texts=tuple(texts), figures=figures),
        large=Part(setting=base, texts=tuple(own), figures=judge.figures(written)),
        **about,
    )


@pytest.fixture(scope="module")
def parts(runs: Path) -> list[Section]:
    return sections(read([runs]), {})


def test_every_table_and_figure_comes_of_the_runs_that_it_needs(parts: Sequence[Section]) -> None:
    """Texts that were drawn stand apart: their quality cannot be compared with the others'."""
    greedy, drawn = parts
    assert [table.label[6:] for table in greedy.tables] == ["1", "2", "3", "3b", "4"]
    assert [chart.number for chart in greedy.charts] == [4, 5, 8, 10]
    assert [table.number for table in drawn.tables] == [5, 2, 4]
    assert drawn.title.endswith("nucleus p = 0.8")
    assert greedy.texts[0].id == "one"


def test_what_is_missing_is_named_with_a_command(parts: Sequence[Section]) -> None:
    """Nothing is drawn from nothing, and the reader learns how to fill it."""
    lacks = {lack.what.partition(",")[0]: lack.command for lack in parts[0].lacks}
    exact = "Mode exact in table 3b"
    assert set(lacks) == {exact, "Table 5", "Figure 2", "Figure 6", "Figure 7"}
    assert "--baseline nucleus" in lacks["Table 5"]
    assert "--oracle" in lacks["Figure 2"]


def test_equal_quality_is_the_fastest_setting_that_loses_nothing(runs: Path) -> None:
    """And one point lost the fastest that loses at most one; never one whose figure is below."""
    study = studies(read([runs]).records)[0]
    assert study.large is not None
    floor = study.large.quality(study.metric)
    assert floor is not None
    for lost in (0.0, 1.0):
        row = equal(study, lost, kinds=(Kind.BILD,), small=None)
        able = [r for _, y, r in study.placed(Kind.BILD) if y >= floor - lost]
        assert row is (able[0] if able else None)


def test_a_setting_is_known_by_its_options_or_its_name() -> None:
    """Options say what they do; baselines that options cannot tell carry their name."""
    named = {
        "rejection 5": Kind.REJECTION, "CALM 0.9": Kind.CALM, "early exit 4": Kind.EARLY_EXIT,
        "oracle 20 %": Kind.ORACLE, "mine": Kind.BILD,
    }  # fmt: skip
    assert {name: kind_of(Setting(name, Options())) for name in named} == named
    assert kind_of(Setting.of(Options(alpha_rb=inf))) is Kind.NO_ROLLBACK
    assert kind_of(Setting.of(Options(alpha_fb=0))) is Kind.NO_FALLBACK
    assert kind_of(Setting.of(Options()), "mine (first 3 layers)") is Kind.EARLY_EXIT


def renamed(run: Record, name: str) -> Record:
    return replace(run, part=replace(run.part, setting=Setting(name, run.setting.options)))


def test_baselines_that_only_a_name_tells_have_their_figures(runs: Path) -> None:
    """The oracle of figure 2, early exit in figure 6, CALM in figure 7."""
    found = read([runs]).records
    names = ("oracle 10 %", "oracle 30 %", "early exit 2", "calm 0.8")
    small = next(run for run in found if run.setting.options.mode is Mode.SMALL)
    named = [renamed(run, name) for run, name in zip(found, names, strict=False)]
    (part,) = sections(Found([*named, small]), {})
    assert {2, 6, 7} <= {chart.number for chart in part.charts}
    assert {"Figure 2", "Figure 6", "Figure 7"}.isdisjoint(x.what[:8] for x in part.lacks)


def test_two_small_models_beside_one_large_one_are_told_apart(runs: Path) -> None:
    """As unaligned and aligned in table 1 and figure 4: a line and a curve each, and a bill each."""
    one, two = read([runs]).records[:2]
    other = {**two.models, "small": {**two.models["small"], "model": "aligned"}}
    (part,) = sections(Found([one, replace(two, models=other)]), {})
    names = [row[0] for row in part.tables[0].rows]
    assert any(name.startswith("BiLD, aligned, ") for name in names)
    assert any(name.startswith("BiLD, small, ") for name in names)
    (trade,) = (chart for chart in part.charts if chart.number == 4)
    assert "BiLD, aligned: " in trade.says
    assert 8 in {chart.number for chart in part.charts}


def test_the_front_keeps_what_nothing_beats(runs: Path) -> None:
    """Faster and better is up and to the left; a line through the others would promise too much."""
    points = studies(read([runs]).records)[0].placed(Kind.BILD)
    best = front(points, quality=lambda p: p[1], latency=lambda p: p[0])
    assert best
    for x, y, _ in points:
        assert any(a <= x and b >= y for a, b, _ in best)


class Checker(HTMLParser):
    """Collects what a page would load or run, and whether its tags close."""

    VOID = frozenset(("meta", "br", "path", "use", "rect"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.loads: list[str] = []
        self.scripts = 0
        self.ids: list[str] = []
        self.open: list[str] = []
        self.shown = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.loads += [v or "" for k, v in attrs if k in ("src", "srcset", "action", "data")]
        self.loads += [v or "" for k, v in attrs if k == "href" and not (v or "").startswith("#")]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_the_page_loads_nothing_and_shows_what_models_wrote_as_text(
    parts: Sequence[Section],
) -> None:
    """A text may hold HTML, a name too: nothing of it becomes markup."""
    evil = '</p><script>alert(1)</script><img src="http://x/y.png">'
    first = parts[0].texts[0]
    tokens = [replace(first.tokens[0], text=evil, says=f'"{evil}'), *first.tokens[1:]]
    text = replace(first, tokens=tokens, text=evil, large=evil, id=evil, setting=evil)
    shown = page.page([replace(parts[0], title=evil, texts=[text]), parts[1]])
    checker = Checker()
    checker.feed(shown)
    assert checker.open == []
    assert checker.loads == []
    assert checker.scripts == 1
    assert evil in checker.shown
    told = markdown.escaped("`a` |b| <i>\n# c")
    assert told == r"\`a\` \|b\| \<i\> \# c"


def test_names_go_on_in_another_line_and_figures_do_not(parts: Sequence[Section]) -> None:
    """A table of long names fits a page, and in a narrow window the first column stays where it is."""
    shown = page.page(parts)
    for table in parts[0].tables:
        for head, cell in zip(table.head[1:], table.rows[0][1:], strict=True):
            named = f'<td class="words">{cell}</td>' in shown
            assert named is (head in {"setting", "small model", "family"})
    assert re.search(r"^td\.words {[^}]*white-space: normal", shown, re.MULTILINE)
    assert re.search(r"^tr > :first-child {[^}]*position: sticky", shown, re.MULTILINE)


def test_tokens_are_told_apart_without_colour(parts: Sequence[Section]) -> None:
    """Each source but the small model's own has an underline, and in Markdown a letter."""
    shown = page.page(parts)
    for source in ("fallback", "window", "rollback", "large"):
        rule = re.search(rf"^\.{source} {{([^}}]*)}}", shown, re.MULTILINE)
        assert rule is not None
        assert "underline" in rule[1]
    text = parts[0].texts[0]
    assert len(text.signs) == len(text.tokens)
    assert set(text.signs) <= set("sFWRL")
    assert text.spelled
    assert "".join(token.text for token in text.tokens).strip() == text.text.strip()


def test_figures_are_the_same_bytes_each_time(parts: Sequence[Section], runs: Path) -> None:
    """A report can be committed: only what was measured changes it."""
    again = sections(read([runs]), {})
    for one, other in zip(parts, again, strict=True):
        assert [chart.svg for chart in one.charts] == [chart.svg for chart in other.charts]
    for chart in parts[0].charts:
        ET.fromstring(chart.svg)
        assert chart.says
    assert page.page(parts) == page.page(again)


def test_the_command_writes_a_page_and_a_text(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With every figure of the text beside it."""
    assert main([str(runs), "--out", str(tmp_path / "out"), "--texts", "2"]) == 0
    told = (tmp_path / "out" / "report.md").read_text("utf-8")
    for name in re.findall(r"\]\((.*?\.svg)\)", told):
        ET.parse(tmp_path / "out" / name)
    assert "### Table 1." in told
    assert "figure 10" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_without_the_models_files_the_rest_is_still_there(runs: Path) -> None:
    """Costs need shapes and coloured words a tokenizer; the report says so instead of failing."""
    one = read([runs]).records[0]
    bare = replace(one, environment={})
    (part,) = sections(Found([bare]), {})
    assert 8 not in [chart.number for chart in part.charts]
    assert any("--large" in note for note in part.notes)
    assert not part.texts[0].spelled
    given = {role: str(runs / "pair" / role) for role in Role}
    assert models_of(bare, given).tokenizer is not None
    with pytest.raises(ConfigError, match="no such folder"):
        sections(Found([bare]), {Role.LARGE: "/nowhere/at/all"})


def test_what_is_no_record_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its name; a folder may hold other things, but not only."""
    file = tmp_path / "other.json"
    file.write_text("{}", "utf-8")
    assert main([str(file), "--out", str(tmp_path / "out")]) == 2
    assert "other.json is not a record" in capsys.readouterr().err
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "bild eval" in capsys.readouterr().err
    assert main([str(file), "--out", str(tmp_path), "--texts", "-1"]) == 2
    assert not (tmp_path / "out").exists()


def test_calm_has_no_bill(runs: Path) -> None:
    """How many layers it ran is in no record: at full depth it would be as dear as the large model alone."""
    one, *_, small = (run for run in read([runs]).records if not run.setting.options.temperature)
    assert small.setting.options.mode is Mode.SMALL
    (part,) = sections(Found([renamed(small, "calm 0.8"), one]), {})
    (chart,) = (chart for chart in part.charts if chart.number == 8)
    assert "calm" not in chart.says
    assert "bild" in chart.says


def test_a_tasks_texts_are_read_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two studies of one task, each of several runs: a data set may have millions."""
    asked = []

    def items(task: str, split: str) -> Items:
        asked.append((task, split))
        return Items({item.id: item for item in ITEMS})

    monkeypatch.setattr("bild_dist.evaluation.report.report.items_of", items)
    parts = sections(read([runs]), {})
    assert [8 in {chart.number for chart in part.charts} for part in parts] == [True, True]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("options", "lengths", "most"),
    [
        ({"truncate": True}, {"max_length": 99, "max_source": 3}, 3),
        ({"truncate": True, "max_new_tokens": 4}, {"max_length": 6, "max_source": 0}, 2),
        ({}, {"max_length": 6, "max_source": 0}, 5),
        ({"truncate": True}, {}, 5),
    ],
    ids=["encoder", "with room for the text", "as it is", "unknown"],
)
def test_a_prompt_that_was_cut_is_billed_as_it_was_read(
    runs: Path, options: dict[str, Any], lengths: dict[str, int], most: int
) -> None:
    """An article of thousands of tokens costs what the encoder takes of it, and no more."""
    one = read([runs]).records[0]
    setting = Setting("mine", Options(**options))
    cut = replace(
        one, part=replace(one.part, setting=setting), models={role.value: lengths for role in Role}
    )
    found = models_of(one, {})

    class Letters:
        def encode(self, prompt: str) -> Any:
            return type("Encoded", (), {"ids": list(prompt)})

    items = {text.id: Item(text.id, "abcde") for text in one.texts}
    assert set(replace(found, tokenizer=Letters()).lengths(cut, items).values()) == {most}
