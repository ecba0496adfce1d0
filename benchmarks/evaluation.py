"""The paper's comparisons on the pairs of this project: `bild eval` of many settings, and a report.

    python -m benchmarks.evaluation de-en [--count N] [--records FOLDER]
    python -m benchmarks.evaluation default --count 40
    python -m benchmarks.evaluation contest     BiLD against speculative sampling, over all texts of de-en
    python -m benchmarks.evaluation synopsis    behind `make -C recipes/debian-t5 PAIR=synopsis align`

Settings of one pair of workers write every text side by side, with the large model alone among them
(`side_by_side`), so that speeds are comparable between settings; those that need workers of their own (early
exit, CALM) have the large model beside them in turns. A record that is there already is kept. What is
committed is benchmarks/evaluation/NAME.json, the figures without the texts, and docs/evaluation/NAME,
the report of all records as Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.side_by_side import side_by_side
from bild_dist.errors import BildError, ConfigError
from bild_dist.evaluation.run.record import Record

HERE: Final = Path(__file__).parent
REJECTION: Final = tuple(f"--baseline 'rejection {window}'" for window in (3, 4, 5, 7, 10))
BASELINES: Final = (
    "--baseline exact",
    "--baseline small",
    *REJECTION,
    "--baseline 'no fallback' --alpha-rb 2",
    "--baseline 'no rollback' --alpha-fb 0.5",
)
MEASURES: Final = (
    "--alpha-fb 0.5 --alpha-rb 2 --adapt 0.3 --name 'adapt 0.3'",
    "--alpha-fb 0.4 --alpha-rb 2 --confidence margin --name 'margin 0.4/2'",
    "--alpha-fb 0.2 --alpha-rb 2 --confidence entropy --name 'entropy 0.2/2'",
    "--alpha-fb 0.2 --alpha-rb 2 --confidence product --name 'product 0.2/2'",
    "--alpha-fb 0.5 --alpha-rb 1 --distance kl --name 'kl 0.5/1'",
    "--alpha-fb 0.5 --alpha-rb 0.3 --distance js --name 'js 0.5/0.3'",
    "--alpha-fb 0.5 --alpha-rb 0.5 --distance tv --name 'tv 0.5/0.5'",
    "--alpha-fb 0.5 --alpha-rb 0.5 --distance l2 --name 'l2 0.5/0.5'",
)
ORACLE: Final = tuple(f"--oracle {nats}" for nats in ("inf", "7", "4", "2", "1", "0.5"))
DRAWN: Final = (
    *(f"--baseline nucleus --alpha-fb {fb} --alpha-rb 2" for fb in ("0.3", "0.5")),
    "--baseline nucleus --mode exact",
    *(f"{REJECTION[i]} --temperature 1 --top-p 0.8" for i in range(3)),
)


def bild(*settings: str) -> tuple[str, ...]:
    """The options of "alpha_fb/alpha_rb"."""
    pairs = (setting.split("/") for setting in settings)
    return tuple(f"--alpha-fb {fb} --alpha-rb {rb}" for fb, rb in pairs)


def exits(
    large: str, *layers: int, thresholds: Sequence[str] = ("0.5", "0.8"), more: str = ""
) -> tuple[str, ...]:
    """Early exit: the small model is so many of the large one's first layers. `more`: options of workers."""
    return tuple(
        f"--large {large} {more}--exit-layer {count} --alpha-fb {fb} --alpha-rb 2 "
        f"--name 'early exit {count}, {fb}'"
        for count in layers
        for fb in thresholds
    )


def calm(pair: str, *thresholds: str) -> tuple[str, ...]:
    """CALM: the large model alone, leaving its layers early; at 1 it never does, on the same modules."""
    return tuple(
        f"-c benchmarks/evaluation/calm-{pair}-{threshold}.toml --mode small --name 'calm {threshold}'"
        for threshold in thresholds
    )


PAIRS: Final = {
    "de-en": (
        "debian-de-en",
        *bild("0.2/2", "0.3/2", "0.4/2", "0.5/2", "0.7/2", "0.2/4", "0.5/4"),
        "--alpha-fb 0.5 --alpha-rb 2 --schedule paper --name 'bild 0.5/2, paper'",
        *BASELINES,
        *DRAWN,
        *exits("bild_dist/pairs/de-en/large", 4, 8, more="--threads 1 "),
        *calm("de-en", "0.99", "0.993", "0.996", "1"),
        *MEASURES,
        *ORACLE,
    ),
    "contest": (
        "debian-de-en",
        *bild("0.3/2", "0.4/2", "0.5/2", "0.7/2"),
        "--alpha-fb 0.4 --alpha-rb 2 --confidence margin --name 'margin 0.4/2'",
        "--baseline exact",
        *REJECTION[:4],
    ),
    "synopsis": (
        "debian-synopsis",
        *bild("0.2/2", "0.3/2", "0.4/2", "0.5/2", "0.7/2", "0.2/4", "0.5/4"),
        *BASELINES,
        *ORACLE,
    ),
    "default": (
        "debian-synopsis",
        *bild("0.6/2", "0.4/2", "0.4/4"),
        *BASELINES,
        *calm("default", "1", "0.99", "0.985", "0.992"),
        *exits("default", 10, 20, thresholds=("0.5",)),
        *MEASURES[:3],
        *MEASURES[5:],
        *DRAWN[1:4],
        *ORACLE,
    ),
}
"""By name: the task and the settings."""
MODELS: Final = {
    "de-en": ["--pair", "de-en"],
    "contest": ["--pair", "de-en"],
    "synopsis": ["--small", "small-aligned", "--large", "large", "--threads", "1"],
    "default": ["--pair", "default"],
}
RECIPE: Final = Path.home() / ".cache/bild-dist/recipes/debian-t5/synopsis"
"""Where `make -C recipes/debian-t5 PAIR=synopsis align` leaves its models."""


def place(pair: str) -> Path:
    """The folder that the commands of a pair are given in."""
    return RECIPE if pair == "synopsis" else HERE.parent


def main() -> int:
    """Exit code: 0 every setting was measured, 1 not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pair", choices=sorted(PAIRS))
    parser.add_argument("--count", type=int, metavar="N")
    parser.add_argument("--records", type=Path, default=Path.home() / ".cache/bild-dist/evaluation")
    given = parser.parse_args()
    folder: Path = given.records.resolve() / given.pair
    folder.mkdir(parents=True, exist_ok=True)
    task, *settings = PAIRS[given.pair]
    commands = [command(given, task, options, folder) for options in settings]
    try:
        with contextlib.chdir(place(given.pair)):
            measure([one for one in commands if not there(one)])
        rows = [figures(one) for one in commands]
    except BildError as error:
        print(f"benchmarks.evaluation: {error}", file=sys.stderr)
        return 1
    out = HERE / "evaluation" / f"{given.pair}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    pages = HERE.parent / "docs" / "evaluation" / given.pair
    report = subprocess.run(
        [*_BILD, "report", str(folder), "--out", str(pages)], check=False, cwd=place(given.pair)
    )
    # The page has every text in it; whoever wants it makes it.
    (pages / "report.html").unlink(missing_ok=True)
    return report.returncode


def command(given: argparse.Namespace, task: str, options: str, folder: Path) -> list[str]:
    """What `bild eval` is given to measure a setting."""
    words = shlex.split(options)
    file = folder / (
        "".join(c if c.isalnum() or c == "." else "-" for c in options).strip("-") + ".json"
    )
    count = [] if given.count is None else ["--count", str(given.count)]
    models = [] if _APART & set(words) else MODELS[given.pair]
    return ["--task", task, *models, *count, *words, "--out", str(file)]


def there(command: Sequence[str]) -> bool:
    """Whether its record is there.

    Raises:
        ConfigError: another record is.
    """
    out = Path(command[-1])
    if not out.exists():
        return False
    told = Record.read(out).environment["command"]
    if told != shlex.join(["bild", "eval", *command]):
        raise ConfigError(
            f"{out} is of another run ({told}): remove it, or name another folder (--records)"
        )
    return True


def measure(commands: Sequence[Sequence[str]]) -> None:
    """Carries out command lines of `bild eval`: those of the pair's own workers side by side.

    Raises:
        BildError: one of them failed.
    """
    together = [command for command in commands if not _APART & set(command)]
    if together:
        asyncio.run(side_by_side(together))
    for command in commands:
        if command not in together:
            print(shlex.join(command), flush=True)
            done = subprocess.run([*_BILD, "eval", *command], check=False)
            if not Path(command[-1]).exists():
                raise ConfigError(f"bild eval ended with {done.returncode}: see what it said")


def figures(command: Sequence[str]) -> dict[str, Any]:
    """The figures of one setting, from its record."""
    record = json.loads(Path(command[-1]).read_text(encoding="utf-8"))
    told = {
        "command": shlex.join(["bild", "eval", *command[:-2]]),
        "side_by_side": not _APART & set(command),
    }
    kept = ("task", "split", "setting", "figures")
    environment = {key: record["environment"][key] for key in ("commit", "date", "hardware")}
    beside = {} if record["large"] is None else {"large": record["large"]["figures"]}
    return {**told, **environment, **{key: record[key] for key in kept}, **beside}


_APART: Final = {"--large", "-c"}
"""With these a setting names models of its own, so it needs workers of its own."""
_BILD: Final = [sys.executable, "-m", "bild_dist"]

if __name__ == "__main__":
    sys.exit(main())
