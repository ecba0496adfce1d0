"""`bild sweep --measure`: what is timed is what users would see of a setting."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bild_dist.app import inproc
from bild_dist.evaluation.sweep import main as command
from bild_dist.evaluation.sweep.journal import Journal
from bild_dist.evaluation.sweep.running import Stages
from bild_dist.orchestrator import dispatcher
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
