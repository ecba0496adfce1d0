"""`benchmarks.side_by_side`: settings that write every text beside each other, and the records that they leave."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from benchmarks.side_by_side import side_by_side
from bild_dist.errors import ConfigError, WorkerUnavailable
from bild_dist.evaluation.run import running
from bild_dist.evaluation.run.record import Record
from bild_dist.evaluation.run.running import Outcome
from bild_dist.evaluation.tasks.base import Item
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Options

PAIR = ["--small", "toy:small?seed=1", "--large", "toy:large?seed=1", "--max-new-tokens", "24"]


def commands(folder: Path, *settings: list[str]) -> list[list[str]]:
    """Command lines of `bild eval` over three texts, one a setting."""
    task = folder / "task.jsonl"
    lines = ({"prompt": f"text {n}", "reference": f"text {n}"} for n in range(3))
    task.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        ["--task", str(task), *PAIR, *words, "--out", str(folder / f"{number}.json")]
        for number, words in enumerate(settings)
    ]


async def test_each_setting_has_a_record_with_the_same_large_texts(tmp_path: Path) -> None:
    """Settings that differ in thresholds share one large model alone, one that draws has its own."""
    asked = commands(
        tmp_path, ["--baseline", "exact"], ["--baseline", "rejection 3"],
        ["--alpha-fb", "0.5", "--name", "half"], ["--baseline", "nucleus"],
    )  # fmt: skip
    await side_by_side(asked)
    exact, rejection, half, nucleus = (
        Record.read(tmp_path / f"{number}.json") for number in range(4)
    )
    assert exact.large is not None
    assert exact.large.texts == rejection.large.texts == half.large.texts  # type: ignore[union-attr]
    assert nucleus.large is not None
    assert nucleus.large.setting.options.temperature == 1
    alone = [text.tokens for text in exact.large.texts]
    assert [text.tokens for text in exact.texts] == alone
    assert [text.tokens for text in rejection.texts] == alone
    assert half.setting.name == "half"
    assert half.environment["command"] == shlex.join(["bild", "eval", *asked[2]])
    assert not (tmp_path / "side-by-side.partial.jsonl").exists()
    assert len(half.texts) == 3
    assert exact.figures["agreement"]["value"] == 1
    assert all(text.wall_ns > 0 for text in (*exact.texts, *exact.large.texts))


async def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before is not written again."""
    asked = commands(tmp_path, ["--baseline", "exact"])
    wrote: list[str] = []

    async def stopping(decoder: Decoder, item: Item, options: Options) -> Outcome:
        wrote.append(item.id)
        if len(wrote) == 4:
            raise WorkerUnavailable("the large worker was killed")
        return await running.write(decoder, item, options)

    monkeypatch.setattr("benchmarks.side_by_side.write", stopping)
    with pytest.raises(WorkerUnavailable):
        await side_by_side(asked)
    await side_by_side(asked)
    assert len(wrote) == 4 + 3
    assert len(Record.read(tmp_path / "0.json").texts) == 3


async def test_settings_of_other_texts_are_refused(tmp_path: Path) -> None:
    """What is compared must be of the same texts and workers."""
    asked = commands(tmp_path, ["--baseline", "exact"], ["--baseline", "small", "--count", "2"])
    with pytest.raises(ConfigError, match=r"1\.json is of other texts or workers than .*0\.json"):
        await side_by_side(asked)
