"""`bild sweep --measure`: what is timed is what users would see of a setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bild_dist.evaluation.sweep.running import Stages
from bild_dist.orchestrator import dispatcher
from tests.spec.test_sweep import swept, written


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
