"""Table 3 of `bild report`: BiLD against speculative sampling by rejection on the same texts, and who wins."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from bild_dist.app import inproc
from bild_dist.evaluation.metrics import registry
from bild_dist.evaluation.metrics.base import Resamples
from bild_dist.evaluation.report import markdown, page
from bild_dist.evaluation.report.cells import Table
from bild_dist.evaluation.report.files import Found, read
from bild_dist.evaluation.report.paired import Comparison
from bild_dist.evaluation.report.report import Section, sections
from bild_dist.evaluation.report.runs import Kind, studies
from bild_dist.evaluation.report.tables import tables
from bild_dist.evaluation.run import main as evaluation
from bild_dist.evaluation.run.figures import Judge, Written
from bild_dist.evaluation.run.options import planned
from bild_dist.evaluation.run.record import Part, Record, Setting, TextRecord
from bild_dist.evaluation.tasks.base import Item
from bild_dist.policy.baselines import alone, baseline
from bild_dist.types import Options

COUNT: Final = 40
MINE: Final = "the cat sat on the mat and looked at the dog"
"""What the large model writes of each item, and what each should be but for the item's own word."""
ITEMS: Final = {f"t{n}": Item(f"t{n}", f"prompt {n}", (f"{MINE} {n}",)) for n in range(COUNT)}
LOSSY: Final = Options(alpha_fb=0.4, alpha_rb=4)
REJECTION: Final = baseline("rejection 4", Options())
EXACT: Final = baseline("exact", Options())


def text(name: str, said: str, ms: float) -> TextRecord:
    tokens = tuple(said.encode())
    return TextRecord(
        id=name, text=said, tokens=tokens, sources=("small",) * len(tokens), wall_ns=round(ms * 1e6)
    )


def run(
    options: Options,
    speed: float,
    *,
    wrong: int = 0,
    better: int = 0,
    noise: float = 0.0,
    seed: int = 0,
    metric: str = "rougeL",
    task: str = "mine.jsonl",
    own: str = MINE,
    name: str = "",
) -> Record:
    """A run whose setting is so many times as fast as the large model; `noise`: share by which that varies
    from text to text. Of so many texts it writes nonsense, or what nothing but the reference says.
    """
    drawn = np.random.default_rng(seed)
    beside = {n: text(n, own, 100 + 50 * drawn.random()) for n in ITEMS}
    texts = {}
    for place, (key, item) in enumerate(ITEMS.items()):
        said = "nothing of it" if place < wrong else own
        said = item.references[0] if place >= COUNT - better else said
        ms = beside[key].wall_ns / 1e6 / speed
        texts[key] = text(key, said, ms * (1 + noise * drawn.normal()))
    base = Written(beside, {})
    judge = Judge(list(ITEMS.values()), [registry.named(metric)], base)
    setting = Setting.of(options)
    return Record(
        task=task,
        split="all",
        part=Part(
            setting=Setting(name or setting.name, options),
            texts=tuple(texts.values()),
            figures=judge.figures(Written(texts, {})),
        ),
        large=Part(
            setting=Setting.of(alone(options)),
            texts=tuple(beside.values()),
            figures=judge.figures(base),
        ),
        models={role: {"model": role, "weights": role} for role in ("small", "large")},
    )


def told(records: Sequence[Record], items: Mapping[str, Item] = ITEMS) -> Table:
    """Table 3b of them."""
    (study,) = studies(records)
    return next(table for table in tables(study, {}, items) if table.letter == "b")


def starting(table: Table, words: str) -> str:
    return next(said for said in table.says if said.startswith(words))


def test_the_ratio_of_two_runs_is_of_the_same_resamples_of_both() -> None:
    """Each speed is over the large model beside it, text by text: who ran in a slower hour loses nothing."""
    ours, theirs = (run(LOSSY, 2.0, noise=0.2), run(REJECTION, 1.6, noise=0.2, seed=1))
    (study,) = studies([ours, theirs])
    rows = {row.kind: row for row in study.rows}
    found = Comparison(study, ITEMS).of(rows[Kind.BILD], rows[Kind.REJECTION])
    walls = []
    for record in (ours, theirs):
        assert record.large is not None
        walls += [[t.wall_ns for t in part.texts] for part in (record.large, record.part)]
    picked = Resamples(COUNT)._drawn
    large, own, other_large, other = (picked @ np.array(one, dtype=float) for one in walls)
    low, high = np.percentile((large / own) / (other_large / other), (2.5, 97.5))
    assert found.speed is not None
    assert found.speed["low"] == pytest.approx(low)
    assert found.speed["high"] == pytest.approx(high)
    sums = [sum(one) for one in walls]
    assert found.speed["value"] == pytest.approx(sums[0] / sums[1] / (sums[2] / sums[3]))
    assert low < found.speed["value"] < high


def test_quality_is_judged_again_over_the_same_texts() -> None:
    """The difference of two settings is paired: where one text in ten is lost its interval is far narrower
    than those of the two figures, which overlap.
    """
    ours, theirs = run(LOSSY, 2.0, wrong=4), run(REJECTION, 1.6)
    (study,) = studies([ours, theirs])
    rows = {row.kind: row for row in study.rows}
    found = Comparison(study, ITEMS).of(rows[Kind.BILD], rows[Kind.REJECTION])
    assert found.quality is not None
    figures = [record.figures["rougeL"] for record in (ours, theirs)]
    assert found.quality["value"] == pytest.approx(figures[0]["value"] - figures[1]["value"])
    assert found.quality["high"] < 0
    assert (found.same, found.texts) == (COUNT - 4, COUNT)


@pytest.mark.parametrize(
    ("speed", "noise", "verdict"),
    [
        (2.0, 0.05, "BiLD wins"),
        (1.2, 0.05, "speculative sampling wins"),
        (1.6, 0.3, "the two cannot be told apart"),
    ],
)
def test_at_equal_quality_speed_decides(speed: float, noise: float, verdict: str) -> None:
    """By the interval and never by the figure: one that holds 1 says that nobody knows."""
    table = told([
        run(LOSSY, speed, noise=noise, seed=5), run(REJECTION, 1.6, noise=noise), run(EXACT, 1.1),
    ])  # fmt: skip
    said = starting(table, "At equal quality")
    assert said.startswith(f"At equal quality {verdict} by speed: bild 0.4/4 is ")
    assert said.endswith("times as fast as rejection 4. Both wrote the same texts.")
    assert table.rows[0][0] == "BiLD at its quality"
    assert starting(table, "In mode exact").startswith(
        "In mode exact, which loses nothing, speculative sampling wins by speed: exact is 0."
    )


def test_no_winner_by_less_than_is_shown() -> None:
    """An interval that reads as one up to 1.00 holds 1 for whoever reads it."""
    table = told([run(LOSSY, 1.597), run(REJECTION, 1.6)])
    assert table.rows[0][3] == "1.00 [1.00, 1.00]"
    assert starting(table, "At equal quality the two cannot be told apart by speed")


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"better": 20}, "BiLD wins"),
        ({"wrong": 20}, "speculative sampling wins"),
        ({"wrong": 1, "better": 20, "metric": "agreement"}, "speculative sampling wins"),
        ({"wrong": 1, "better": 7}, "the two cannot be told apart"),
    ],
)
def test_at_equal_latency_quality_decides(changes: dict[str, Any], verdict: str) -> None:
    """Of the best setting that is at least as fast, by the interval of the difference."""
    metric = changes.get("metric", "rougeL")
    table = told([run(LOSSY, 2.0, **changes), run(REJECTION, 1.6, metric=metric)])
    by = "agreement" if metric == "agreement" else "ROUGE-L"
    assert starting(table, "At equal latency").startswith(
        f"At equal latency {verdict} by {by}: bild"
    )
    row = next(row for row in table.rows if row[0] == "BiLD at its latency")
    assert row[1] == "bild 0.4/4"
    assert row[3].startswith("1.25 [1.25, 1.25]")


def test_mode_exact_stands_where_nothing_lossy_is_as_good() -> None:
    """It is a setting of BiLD that loses nothing, and the words say that it is it who wins or loses."""
    table = told([run(LOSSY, 2.0, wrong=9), run(EXACT, 1.76), run(REJECTION, 1.6)])
    assert [row[:2] for row in table.rows] == [
        ["BiLD at its quality: exact", "exact"],
        ["BiLD at its latency", "bild 0.4/4"],
    ]
    assert starting(table, "At equal quality") == (
        "At equal quality BiLD wins by speed: no lossy setting here is as good and faster, so mode exact stands for "
        "BiLD: exact is 1.10 [1.10, 1.10] times as fast as rejection 4. Both wrote the same texts."
    )


def test_a_lossy_setting_that_is_as_good_and_slower_does_not_stand_for_bild() -> None:
    """Mode exact has the quality, too."""
    table = told([run(LOSSY, 1.5, better=20), run(EXACT, 1.76), run(REJECTION, 1.6)])
    assert table.rows[0][:2] == ["BiLD at its quality: exact", "exact"]
    assert "wins by speed" in starting(table, "At equal quality")
    faster = told([run(LOSSY, 1.9, better=20), run(EXACT, 1.76), run(REJECTION, 1.6)])
    assert faster.rows[0][:2] == ["BiLD at its quality", "bild 0.4/4"]


def test_what_no_setting_reaches_is_said_with_the_nearest() -> None:
    """Neither as good nor as fast: the words promise nothing, and say how far off the nearest one is."""
    table = told([run(LOSSY, 1.2, wrong=9), run(REJECTION, 1.6)])
    quality, latency = (starting(table, f"At equal {what}") for what in ("quality", "latency"))
    assert "nothing can be compared" in quality
    assert "Speculative sampling wins by ROUGE-L: -" in quality
    assert "nothing can be compared: no setting of BiLD here is as fast. The fastest, " in latency
    assert (
        "0.75 [0.75, 0.75] times as fast as rejection 4: speculative sampling wins by speed."
        in latency
    )
    assert [row[0] for row in table.rows] == [
        "none at its quality; the best BiLD", "none at its latency; the fastest BiLD",
    ]  # fmt: skip


def test_the_fastest_rejection_is_what_counts() -> None:
    """Against a slow one anybody wins."""
    slow, fast = (baseline(f"rejection {n}", Options()) for n in (9, 3))
    table = told([run(LOSSY, 2.0), run(slow, 1.1), run(fast, 1.9)])
    assert table.title == "BiLD against rejection 3, on the same texts"
    assert table.rows[0][3].startswith("1.05 ")


def test_without_references_only_speed_is_compared(tmp_path: Path) -> None:
    """A record holds no references. Where the task is not here, or is another by now, quality is left out and
    the words say why; the same texts are as good by any.
    """
    records = [run(LOSSY, 2.0, wrong=9), run(REJECTION, 1.6), run(EXACT, 1.5)]
    for items, why in (
        ({}, "the references of mine.jsonl cannot be read here"),
        (
            {name: replace(item, references=("something else",)) for name, item in ITEMS.items()},
            "and 74.1 in its record: the task or the metric has changed",
        ),
    ):
        table = told(records, items)
        assert why in starting(table, "At equal latency nobody can say who wins")
        assert [row[2] for row in table.rows] == ["+0.00 [+0.00, +0.00]", "-"]
    # As the report reads it.
    lines = [
        {"id": i.id, "prompt": i.prompt, "references": list(i.references)} for i in ITEMS.values()
    ]
    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    (part,) = sections(Found([replace(record, task=str(task)) for record in records]), {})
    assert lettered(part).rows[1][2].startswith("-2")


def lettered(part: Section) -> Table:
    return next(table for table in part.tables if table.label == "table 3b")


def drawn(options: Options, **changes: Any) -> Options:
    return replace(options, temperature=1.0, top_p=0.8, **changes)


def test_texts_that_were_drawn_are_compared_too() -> None:
    """BiLD drawn against rejection drawn, where a metric is fair to both."""
    table = told([run(drawn(LOSSY), 2.0, better=20), run(drawn(REJECTION), 1.6)])
    assert starting(table, "At equal latency BiLD wins")
    assert "One draw a text, each with random numbers of its own" in table.note
    assert "otherwise in one run" not in table.note
    other = run(drawn(REJECTION), 1.6, own=f"{MINE} too")
    table = told([run(drawn(LOSSY), 2.0, better=20), other])
    assert "wrote up to 40 texts otherwise in one run than in another" in table.note


def test_what_two_lossless_settings_drew_proves_nothing() -> None:
    """Mode exact and rejection have one law: the one whose draws were luckier is not the better one."""
    table = told([run(drawn(EXACT), 2.0, better=30), run(drawn(REJECTION), 1.6, wrong=20)])
    said = " ".join(table.says)
    assert "At equal latency the two cannot be told apart by ROUGE-L: no lossy setting" in said
    assert "wins by ROUGE-L" not in said


def test_agreement_with_one_draw_judges_no_method() -> None:
    """BiLD shares the random numbers of the large model alone and rejection has others: by agreement BiLD
    would always win. Mode exact is compared by its speed.
    """
    records = [
        run(drawn(options), speed, metric="agreement", wrong=wrong)
        for options, speed, wrong in ((LOSSY, 2.0, 5), (EXACT, 1.8, 0), (REJECTION, 1.6, 30))
    ]
    table = told(records)
    assert [row[:3] for row in table.rows] == [["exact", "exact", "-"]]
    assert starting(table, "In mode exact").endswith("law: whatever else differs is chance.")
    assert "favours BiLD" in starting(table, "Of quality nothing can be said by agreement")
    (study,) = studies([records[0], records[2]])
    (only,) = (table for table in tables(study, {}, ITEMS) if table.number == 3)
    assert "favours BiLD" in only.note


def test_ways_to_draw_stand_apart() -> None:
    """Another temperature or top-k is another law, and their runs compare nothing."""
    ways: dict[str, dict[str, Any]] = {
        "temperature 0.7, nucleus p = 0.8": {"temperature": 0.7, "top_p": 0.8},
        "nucleus p = 0.8": {"temperature": 1.0, "top_p": 0.8},
        "temperature 1": {"temperature": 1.0},
        "top 40": {"temperature": 1.0, "top_k": 40},
        "": {"top_p": 0.8},
    }
    found = studies([run(replace(LOSSY, **way), 2.0) for way in ways.values()])
    assert [study.drawn for study in found] == list(ways)


def test_what_table_3_lacks_is_drawn_as_the_rest() -> None:
    """A suggested command that forgot the temperature would fill another section."""
    records = [run(drawn(LOSSY), 2.0), run(drawn(REJECTION), 1.6)]
    for kept, what in ((records[:1], "Table 3, "), (records, "Mode exact in table 3b")):
        (part,) = sections(Found(kept), {})
        lack = next(lack for lack in part.lacks if lack.what.startswith(what))
        words = shlex.split(lack.command)
        words = words[words.index("--small") :]
        words = words[: words.index("--out")]
        plan = planned([*words, "--task", "debian-de-en", "--out", "FILE.json"])
        (study,) = studies([*records, run(plan.config.generate, 1.5)])
        assert study.drawn == "nucleus p = 0.8"
    given = [*records, run(drawn(EXACT), 1.5)]
    (part,) = sections(Found(given), {})
    assert not any("table 3" in lack.what.lower() for lack in part.lacks)


def test_several_small_models_are_named() -> None:
    """Whoever wins has a small model."""
    one, two = run(LOSSY, 2.0), run(REJECTION, 1.6)
    other = replace(one, models={**one.models, "small": {"model": "aligned", "weights": "a"}})
    assert told([other, two]).rows[0][1] == "bild 0.4/4, aligned"


def test_runs_of_two_places_are_called_so() -> None:
    """A ratio to the large model does not level out another machine."""
    one, two = run(LOSSY, 2.0), run(REJECTION, 1.6)
    there = [
        replace(run, environment={"cpu": cpu, "threads_small": 1})
        for run, cpu in ((one, "this"), (two, "that"))
    ]
    assert "The runs differ in cpu, which" in told(there).note
    assert "differ in" not in told([one, two]).note


def test_rejection_alone_has_its_table_and_nobody_beside_it() -> None:
    """Nothing is said of runs that are not there."""
    (study,) = studies([run(REJECTION, 1.6)])
    found = [table for table in tables(study, {}, ITEMS) if table.number == 3]
    assert len(found) == 1
    assert found[0].note == "No run of BiLD stands beside it."


@pytest.mark.timeout(240)
def test_the_words_stand_on_the_page_and_in_the_text(tmp_path: Path) -> None:
    """Runs of `bild eval` as they are: at temperature 0 mode exact and rejection write the same texts."""
    task, house = tmp_path / "task.jsonl", tmp_path / "house.toml"
    lines = [{"id": f"t{n}", "prompt": f"text {n}", "reference": f"text {n}"} for n in range(3)]
    task.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    house.write_text('[orchestrator]\ntransport = "inproc"\n', "utf-8")
    spec = "seed=1&f=0.3&end=0.05"
    for number, words in enumerate((
        ["--baseline", "rejection 4"], ["--baseline", "exact"], ["--alpha-fb", ".3", "--alpha-rb", "9"],
    )):  # fmt: skip
        argv = ["--small", f"toy:small?{spec}", "--large", f"toy:large?{spec}", "-c", str(house),
                "--task", str(task), "--max-new-tokens", "12", "--metric", "chrf,agreement",
                "--out", str(tmp_path / f"{number}.json"), *words]  # fmt: skip
        assert evaluation.main(argv, inproc) == 0
    (part,) = sections(read([tmp_path]), {})
    table = lettered(part)
    exact = next(row for row in table.rows if row[1] == "exact")
    assert exact[2] == "+0.00 [+0.00, +0.00]" or exact[2].startswith("+0.000")
    assert exact[4] == "3 of 3"
    markdown.written([part], tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    shown = page.page([part])
    assert table.says
    for said in table.says:
        assert f"- {markdown.escaped(said)}" in text
        assert f"<li>{said.replace(chr(39), '&#39;')}</li>" in shown
    assert "### Table 3b. " in text
