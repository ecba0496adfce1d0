"""What `bild report` puts into one table, and what counts as better there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bild_dist.errors import ConfigError
from bild_dist.evaluation.costs.bill import bill_of
from bild_dist.evaluation.costs.shapes import shape_of
from bild_dist.evaluation.costs.work import Meter
from bild_dist.evaluation.oracle import replacing
from bild_dist.evaluation.report.files import Found, read
from bild_dist.evaluation.report.main import main
from bild_dist.evaluation.report.report import sections
from bild_dist.evaluation.report.runs import Kind, Study, equal, studies
from bild_dist.evaluation.report.tables import tables
from bild_dist.evaluation.run.record import Failure, Part, Record, Setting, TextRecord
from bild_dist.evaluation.sweep.grid import front
from bild_dist.types import Mode, Options, Role, Schedule


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}


def part(options: Options, ids: str, **figures: float) -> Part:
    texts = tuple(TextRecord(id=i, text="a", tokens=(1,), sources=("large",)) for i in ids)
    found = {name: figure(value) for name, value in figures.items()}
    return Part(setting=Setting.of(options), texts=texts, figures=found)


def run(
    speedup: float,
    *,
    ids: str = "ab",
    own: Mapping[str, float],
    large: Mapping[str, float],
    weights: Mapping[str, str] = {"small": "s", "large": "l"},
    **options: Any,
) -> Record:
    return Record(
        task="mine", split="all",
        part=part(Options(**options), ids, speedup=speedup, **own),
        large=part(Options(mode=Mode.LARGE), ids, speedup=1, **large),
        models={role: {"model": "final", "weights": name} for role, name in weights.items()},
    )  # fmt: skip


def perplexities() -> Study:
    found = [
        run(1.0 + n, own={"perplexity": value}, large={"perplexity": 5.0}, alpha_rb=n)
        for n, value in enumerate((4.9, 5.0, 5.08, 5.3))
    ]
    (study,) = studies(found)
    return study


def test_of_perplexity_the_lower_is_the_better() -> None:
    """The fastest of equal quality is the fastest that is not above the large model's; a point is a
    tenth, and the line of that point lies above.
    """
    study = perplexities()
    names = [
        row.name
        for lost in (0.0, 1.0)
        if (row := equal(study, lost, kinds=[Kind.BILD], small=None)) is not None
    ]
    assert names == ["bild 0.6/1", "bild 0.6/2"]
    best = front(
        study.placed(Kind.BILD), quality=lambda p: study.worth(p[1]), latency=lambda p: p[0]
    )
    assert [row.name for _, _, row in best] == [
        "bild 0.6/3",
        "bild 0.6/2",
        "bild 0.6/1",
        "bild 0.6/0",
    ]
    assert study.below(5.0) == pytest.approx(5.1)
    assert study.point_title == "0.1 more"


def test_agreement_has_points_and_decimals_of_its_own() -> None:
    """It goes from 0 to 1: one point is a hundredth, or every setting would lose less, and 0.995 is not 1."""
    found = [
        run(1.0 + n, own={"agreement": value}, large={"agreement": 1.0}, alpha_rb=n)
        for n, value in enumerate((1.0, 0.995, 0.99, 0.9))
    ]
    (study,) = studies(found)
    row = equal(study, 1.0, kinds=[Kind.BILD], small=None)
    assert row is not None
    assert row.name == "bild 0.6/2"
    assert study.shown(0.995) == "0.995"
    table = tables(study, {})[0]
    assert any("0.990 [0.990, 0.990]" in cell for cell in table.rows[-1])
    assert "0.01 less" in table.rows[-1][0]


@pytest.mark.parametrize(
    ("changes", "titles"),
    [
        ({"ids": "abc"}, ["mine (all), final, 2 texts", "mine (all), final, 3 texts"]),
        ({"ids": "ac"}, ["mine (all), final, texts 1 of 2", "mine (all), final, texts 2 of 2"]),
        ({"weights": {"small": "s", "large": "other"}},
         ["mine (all), final, weights l", "mine (all), final, weights other"]),
    ],
    ids=["more texts", "other texts", "another model of that name"],
)  # fmt: skip
def test_runs_over_other_texts_or_models_stand_apart(
    changes: dict[str, Any], titles: list[str]
) -> None:
    """Quality over other items compares nothing, and two folders may both be called `final`."""
    one = run(1.5, own={"bleu": 20}, large={"bleu": 21})
    two = run(1.4, **{"own": {"bleu": 22}, "large": {"bleu": 21}, **changes})
    assert [study.title for study in studies([one, two])] == titles


def test_an_item_that_failed_was_asked_for_all_the_same() -> None:
    """One failure does not make another study; the large model counts as it stands beside each run."""
    one = run(1.5, own={"bleu": 20}, large={"bleu": 21})
    two = run(1.4, ids="a", own={"bleu": 30}, large={"bleu": 31}, alpha_rb=9)
    failed = replace(two.part, failed=(Failure("b", "InvalidRequest", "too long"),))
    (study,) = studies([one, replace(two, part=failed)])
    row = equal(study, 0.5, kinds=[Kind.BILD], small=None)
    assert row is None  # 30 is above the first run's 21, and below its own 31


def test_two_small_models_of_one_name_are_told_apart() -> None:
    """By their weights."""
    one = run(1.5, own={"bleu": 20}, large={"bleu": 21})
    two = run(1.4, own={"bleu": 20}, large={"bleu": 21}, weights={"small": "t", "large": "l"})
    (study,) = studies([one, two])
    assert study.smalls == ["final, weights s", "final, weights t"]


def test_settings_of_one_name_are_told_apart() -> None:
    """Two schedules of one pair of thresholds are two rows, each with its own bill."""
    found = [
        run(1.5, own={"bleu": 20}, large={"bleu": 21}, schedule=schedule)
        for schedule in (Schedule.PAPER, Schedule.THROUGH)
    ]
    (study,) = studies(found)
    rows = study.of(Kind.BILD)
    assert [row.name for row in rows] == [
        "bild 0.6/2 schedule paper", "bild 0.6/2 schedule through",
    ]  # fmt: skip
    assert len({row.key for row in rows}) == 2


def test_costs_are_counted_a_token() -> None:
    """A setting that writes longer texts, or more of them, is not dearer for that."""
    shape = shape_of({
        "model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 9, "n_positions": 9,
    })  # fmt: skip
    meters = {role: Meter(shape) for role in Role}
    text = TextRecord(
        id="a", text="", tokens=(1, 2), sources=("large",) * 2, trace={"large_passes": 2}
    )
    setting = Setting.of(Options(mode=Mode.LARGE))
    one = bill_of(Part(setting=setting, texts=(text,)), meters, {"a": 4})
    more = (text, replace(text, id="b"))
    two = bill_of(Part(setting=setting, texts=more), meters, {"a": 4, "b": 4})
    assert (one.tokens, two.tokens) == (2, 4)
    assert one.a_token(one.total).flops == pytest.approx(two.a_token(two.total).flops)
    assert two.total.flops == 2 * one.total.flops


def test_a_folders_broken_records_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever misses a row learns why, on the page and on the terminal."""
    good = run(1.5, own={"bleu": 20}, large={"bleu": 21})
    good.write(tmp_path / "a.json")
    cut = json.loads((tmp_path / "a.json").read_text("utf-8"))
    cut["texts"][0]["sources"] = ["nobody"]
    (tmp_path / "b.json").write_text(json.dumps(cut), "utf-8")
    notes: list[str] = []
    found = read([tmp_path], notes.append)
    assert found.records == [good]
    assert len(notes) == 1
    assert "b.json is no whole record" in notes[0]
    (section,) = sections(found, {}, notes=notes)
    assert section.notes[0] == notes[0]
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "texts[0].sources has 'nobody'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"b\.json is no whole record"):
        read([tmp_path / "b.json"])


def test_figure_2_counts_all_that_the_large_model_wrote() -> None:
    """The oracle replaces tokens, which are rollbacks; the small model alone is where the curve begins."""
    found = [run(2, own={"bleu": 10}, large={"bleu": 30}, mode="small")]
    for nats, share, bleu in ((2.0, 0.1, 20), (1.0, 0.2, 25)):
        one = run(0.5, own={"bleu": bleu}, large={"bleu": 30})
        setting = Setting(f"oracle {nats:g}", replacing(Options(), nats))
        figures = {**one.figures, "rollback_rate": share, "fallback_rate": 0.0}
        found.append(replace(one, part=replace(one.part, setting=setting, figures=figures)))
    (section,) = sections(Found(found), {})
    (chart,) = (chart for chart in section.charts if chart.number == 2)
    assert chart.says == "0 %: 10.0; 10 %: 20.0; 20 %: 25.0"


def test_a_run_without_a_text_promises_nothing() -> None:
    """Where nothing was compared nobody can say that no setting reaches the large model's quality."""
    one = run(1.5, own={"bleu": 20}, large={"bleu": 21})
    assert one.large is not None
    bare = replace(one, part=replace(one.part, texts=(), figures={}),
                   large=replace(one.large, texts=(), figures={}))  # fmt: skip
    (section,) = sections(Found([bare]), {})
    assert "no setting reaches it" not in str(section.tables)
    assert section.charts == []


@pytest.mark.parametrize(
    ("changes", "titles"),
    [
        ({"max_new_tokens": 48}, ["max_new_tokens 128", "max_new_tokens 48"]),
        ({"stop": (".",)}, ["stop none", "stop ('.',)"]),
        ({"truncate": True}, ["truncate False", "truncate True"]),
        ({"chat_template": False}, ["chat_template True", "chat_template False"]),
        ({"temperature": 1.0, "seed": 7}, ["seed 0", "seed 7"]),
    ],
    ids=["length", "stop", "truncate", "chat template", "seed"],
)  # fmt: skip
def test_runs_whose_large_model_was_asked_for_something_else_stand_apart(
    changes: dict[str, Any], titles: list[str]
) -> None:
    """Eight tokens of a text take an eighth of the time of all, and another seed writes another text: neither
    is what the other run's settings are measured by.
    """
    usual = {"temperature": 1.0} if "temperature" in changes else {}
    found = studies([
        asked_for(run(1.5, own={"bleu": 20}, large={"bleu": 21}, **options), **more)
        for options, more in ((usual, usual), ({**usual, "window": 3}, usual), (changes, changes))
    ])  # fmt: skip
    assert [study.apart for study in found] == titles
    assert [len(study.rows) for study in found] == [3, 2]


def asked_for(record: Record, **options: Any) -> Record:
    """With the large model alone asked for the same, as `bild eval` does it."""
    assert record.large is not None
    setting = Setting.of(Options(mode=Mode.LARGE, **options))
    return replace(record, large=replace(record.large, setting=setting))


def noted(record: Record, models: Mapping[str, Any] = {}, **environment: Any) -> Record:
    """With more of its models and surroundings."""
    found = {role: {**own, **models} for role, own in record.models.items()}
    return replace(record, models=found, environment=environment)


def test_runs_in_another_precision_or_by_other_references_stand_apart() -> None:
    """The large model writes other texts in bfloat16, and corrected references give other figures."""
    one = run(1.5, own={"bleu": 20}, large={"bleu": 21})
    half, whole = (
        noted(one, {"dtype": dtype, "device": "cpu"}) for dtype in ("bfloat16", "float32")
    )
    assert [study.apart for study in studies([half, whole])] == [
        "bfloat16 on cpu", "float32 on cpu",
    ]  # fmt: skip
    old, new = (noted(one, references=f"2 ({name})") for name in ("0123456789", "fedcba9876"))
    assert [study.apart for study in studies([old, new])] == [
        "references 012345", "references fedcba",
    ]  # fmt: skip


def test_a_large_model_is_the_same_under_another_name() -> None:
    """Whether a pair or a folder was named: the weights are what wrote, and the first name is kept."""
    one = run(1.5, own={"bleu": 20}, large={"bleu": 21})
    models = {**one.models, "large": {**one.models["large"], "model": "elsewhere"}}
    (study,) = studies([one, replace(one, models=models)])
    assert (study.large_model, len(study.of(Kind.BILD))) == ("final", 2)


def test_a_record_that_does_not_name_its_references_stands_with_those_that_do() -> None:
    """Earlier versions did not note them; where two are named nobody knows which it had."""
    bare = run(1.5, own={"bleu": 20}, large={"bleu": 21})
    one, other = (noted(bare, references=f"2 ({name})") for name in ("0123456789", "fedcba9876"))
    assert len(studies([bare, bare])) == 1
    assert len(studies([bare, one])) == 1
    assert [study.apart for study in studies([bare, one, other])] == [
        "references unknown", "references 012345", "references fedcba",
    ]  # fmt: skip


def test_two_places_in_one_section_are_said() -> None:
    """Speeds are over the large model beside them, and still another machine may favour one of two."""
    one = run(1.5, own={"bleu": 20}, large={"bleu": 21})
    (section,) = sections(Found([noted(one, cpu="this"), noted(one, cpu="that", torch="2")]), {})
    (note,) = (note for note in section.notes if "differ" in note)
    assert note.startswith("The runs differ in cpu (this; that). ")
    (section,) = sections(Found([noted(one, cpu="this"), noted(one, cpu="this")]), {})
    assert not any("differ" in note for note in section.notes)
