"""`bild sweep --measure`: what is timed is what users would see of a setting."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bild_dist.app import inproc
from bild_dist.evaluation.sweep import main as command
from bild_dist.evaluation.sweep import timing
from bild_dist.evaluation.sweep.journal import Journal
from bild_dist.evaluation.sweep.running import Stages
from bild_dist.orchestrator import dispatcher
from bild_dist.simulator import Costs
from tests.spec.test_sweep import GRID, swept, words, written


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return written(tmp_path)


def test_a_setting_is_timed_with_what_it_has_learned(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many settings take turns, each finds its forecast again at its next text."""
    whole, kept = Stages._all, []

    async def told(decoder: Any, *given: Any) -> Any:
        kept.append({id(forecast) for forecast in decoder._dispatcher._forecasts.values()})
        return await whole(decoder, *given)

    with monkeypatch.context() as patch:
        patch.setattr(dispatcher, "FORECASTS", 2)
        patch.setattr(Stages, "_all", staticmethod(told))
        swept(
            task, "--alpha-fb", ".3,.8", "--alpha-rb", "1,4", "--schedule", "through", "--measure"
        )
    assert len(kept) == 3
    assert len(kept[0]) == 5  # the settings, and large
    assert kept[0] == kept[1] == kept[2]


def test_texts_that_were_timed_are_compared_with_those_that_were_judged(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise quality and latency of a setting may be of different texts, and nobody would know."""
    whole = Stages._all

    async def other(decoder: Any, item: Any, settings: Any) -> Any:
        found = await whole(decoder, item, settings)
        return {
            setting: dataclasses.replace(text, tokens=(1, 2, 3))
            if (setting.name, item.id) == ("bild 0.8/4", "t1")
            else text
            for setting, text in found.items()
        }

    with monkeypatch.context() as patch:
        patch.setattr(Stages, "_all", staticmethod(other))
        study = swept(task, *GRID, "--measure")
    shares = {point.setting.name: point.same_texts for point in study.points}
    assert shares.pop("bild 0.8/4") == pytest.approx(2 / 3)
    assert set(shares.values()) == {1.0}
    assert "equal texts): bild 0.8/4 (67%)." in capsys.readouterr().out


def test_a_measurement_of_an_earlier_version_goes_on(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal has passes and times alone: what was timed there was compared by nobody."""
    put = Journal.put

    def old(self: Journal, key: str, value: Any) -> None:
        if key == "measured t1":
            raise KeyboardInterrupt
        if key.startswith("measured"):
            value = {name: said["ran"] for name, said in value.items()}
        put(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "put", old)
        assert command.main(words(task, *GRID, "--measure"), inproc) == 130
    study = swept(task, *GRID, "--measure")
    assert {(point.source, point.same_texts) for point in study.points} == {("measured", None)}


def test_latencies_are_called_what_they_are(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Predicted unless all were measured; then the file and the command say how far predictions were off, without
    the setting whose text was read.
    """
    swept(task, *GRID)
    assert "(predicted)" in capsys.readouterr().out
    task.with_name("sweep.json").unlink()
    study = swept(task, *GRID, "--measure")
    said = capsys.readouterr().out
    assert "(predicted)" not in said
    assert "So do latencies in units of large, for " in said
    for kind, settings in (("middle", 3), ("large", 4)):
        found = study.difference[kind]
        assert found["settings"] == found["latency"]["settings"] == settings
        assert found["latency"]["median"] <= found["latency"]["most"]


def test_a_prediction_that_is_too_long_is_said_to_be(
    task: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a text takes besides its passes cannot be less than nothing: it is cut at 0, and not in silence."""

    async def slow(*_: Any) -> Costs:
        return Costs(small_ns=10**9, large_ns=10**9)

    monkeypatch.setattr(timing, "measured", slow)
    study = swept(task, *GRID)
    assert study.costs["opening_ns"] == 0 > study.costs["residual_ns"]
    assert "predicted latencies are too long by about that much" in capsys.readouterr().out


def test_who_comes_first_changes_in_the_recorded_run(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what follows a pause favours none of the three."""
    whole, firsts = timing._item, []

    async def told(decoder: Any, item: Any, *given: Any) -> Any:
        found = await whole(decoder, item, *given)
        firsts.append(next(iter(found)))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(timing, "_item", told)
        swept(task, *GRID)
    assert sorted(firsts) == ["large", "middle", "small"]
