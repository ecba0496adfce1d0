"""`bild align`: the large model writes, the small one learns from it, and the two are compared before
and after.

Each step leaves what it made on disk, so that an interrupted command goes on where it was when it
is given again: the large model's texts in the cache, the training in --out.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from rich.console import Console
from safetensors import SafetensorError

from bild_dist import log
from bild_dist.errors import BildError, ConfigError, InvalidRequest
from bild_dist.evaluation.align import agreement, ready, together
from bild_dist.evaluation.align.asking import Asking, counted
from bild_dist.evaluation.align.calibration import Questions
from bild_dist.evaluation.align.checkpoint import Checkpoints
from bild_dist.evaluation.align.models import freeze, threads
from bild_dist.evaluation.align.options import Alignment, asked
from bild_dist.evaluation.align.outputs import Output
from bild_dist.evaluation.align.progress import Bar
from bild_dist.evaluation.align.training import Run
from bild_dist.evaluation.run.files import write_whole
from bild_dist.model import draft, hub, pairs
from bild_dist.model.checkpoint import DTYPES
from bild_dist.model.foreign import quiet
from bild_dist.model.short_head import ShortHead, end_ids

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess

REPORT: Final = ready.REPORT
_COUNTED: Final = "report.partial.json"
"""The report before the pair was opened. Under a name of its own: whoever waits for the other takes it for
the end.
"""
_TOKENIZER: Final = (
    "tokenizer*", "*.jinja", "*.model", "*.spm", "vocab.*", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "chat_template.json", "tekken.json",
)  # fmt: skip
"""Files that say how a model reads text."""
_WEIGHTS: Final = ("draft.*", "config.json", "generation_config.json", "model*.safetensors*")
"""Files that say what a model is."""
_ENOUGH: Final = 20
"""Held-out texts from which on a table says something about the pair."""


def main(argv: Sequence[str], inproc: InProcess) -> int:
    """Exit code: 0 aligned, 1 stopped before the end, 2 bad usage or configuration, 130
    interrupted.
    """
    # Whoever ends it by `kill` wants to go on as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        log.configure()
        align = Align(asked(argv), shlex.join(["bild", "align", *argv]), inproc)
        return 0 if align.run() else 1
    except BildError as error:
        print(f"bild align: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, ConfigError | InvalidRequest) else 1
    except KeyboardInterrupt:
        print("bild align: interrupted; the same command goes on", file=sys.stderr)  # noqa: T201
        return 130


class Align:
    """One alignment. Owner of the two models while it runs; never holds more than it needs."""

    def __init__(self, plan: Alignment, command: str, inproc: InProcess) -> None:
        self._plan = plan
        self._inproc = inproc
        self._command = command
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._models: dict[str, Any] = {}
        self._forced: int | None = None
        """The id that begins every text, where a target language is forced."""

    def run(self) -> bool:
        """Whether it came to the end; otherwise the same command goes on."""
        plan = self._plan
        threads(plan.threads or os.cpu_count() or 1)
        ready.check(plan)
        asking = Asking(plan, self._large)
        self._forced = asking.forced
        self._say_skipped(asking.learned)
        if asking.tests:
            self._say(
                f"prompts left aside for tests: {asking.tests} (one line in a hundred, by its contents; neither "
                "learned from nor measured on)"
            )
        if not asking.held.kept:
            self._say("no prompt is held out, so agreement is not measured: give more prompts")
        texts = asking.texts(asking.learned, "large model writes")
        tests = asking.texts(asking.held, "held-out texts")
        head = self._head(texts)
        small = self._learner(head)
        before = self._agreement(small, tests, head)
        complete = self._train(small, texts, head)
        if not complete:
            self._say(f"stopped after --minutes {plan.minutes:g}: the same command goes on")
            return False
        self._save(small, head)
        written = self._written()
        after = self._agreement(written, tests, None)
        if before is not None and after is not None:
            # Kept whatever becomes of the pair in the decoder: counting took longer than that will.
            self._report(_COUNTED, before, after, asking, texts, tests)
            with self._err.status("measuring the pair") as status:
                before, after = together.completed(
                    plan,
                    self._inproc,
                    before,
                    after,
                    tests,
                    # Trained together with its exit, the large model of the pair is another one.
                    written if plan.training.exit_layer else self._large(),
                    self._forced,
                    status.update,
                )
            agreement.show(before, after, self._err)
            if len(tests) < _ENOUGH:
                self._say(
                    f"only {len(tests)} held-out texts: so few say little, and the figures may be chance; give "
                    "more prompts"
                )
        self._report(REPORT, before, after, asking, texts, tests)
        (plan.out / _COUNTED).unlink(missing_ok=True)
        self._say(f"written to {plan.out}, with {REPORT}")
        return True

    def _large(self) -> Any:
        if "large" not in self._models:
            with self._err.status("loading the large model"):
                self._models["large"] = self._plan.large.load()
        return self._models["large"]

    def _head(self, texts: Sequence[Output]) -> list[int] | None:
        """The ids that the large model writes most often, and those that end a text."""
        if not self._plan.head:
            return None
        counts = Counter(token for text in texts for token in text.ids)
        # Where there are fewer texts than ids, its second choices tell what else it may write.
        counts.update(
            {int(t): 0 for text in texts for t in text.top_ids.ravel() if int(t) not in counts}
        )
        ends = end_ids(self._large())
        best = [token for token, _ in counts.most_common() if token not in ends]
        return sorted([*ends, *best[: max(0, self._plan.head - len(ends))]])

    def _learner(self, head: Sequence[int] | None) -> Any:
        """The model that learns: the small one, or the large one itself where both are trained."""
        plan = self._plan
        model = plan.small.load()
        if plan.shared:
            freeze(model)
        if head is not None:
            rows = ShortHead(model.get_output_embeddings(), head).rows
            model.set_output_embeddings(rows.requires_grad_(False))
        return model

    def _map(self, model: Any, head: Sequence[int] | None) -> torch.Tensor | None:
        """For each id its row in the short head, -1 without one."""
        if head is None:
            return None
        width = model.config.get_text_config().vocab_size
        rows = torch.full((width,), -1, dtype=torch.long, device=model.device)
        rows[torch.tensor(list(head), device=model.device)] = torch.arange(
            len(head), device=model.device
        )
        return rows

    def _train(self, small: Any, texts: Sequence[Output], head: Sequence[int] | None) -> bool:
        plan = self._plan
        identity = plan.identity([plan.small.fingerprint(), plan.large.fingerprint()])
        read = sha256(json.dumps([(text.prompt_ids, text.ids) for text in texts]).encode())
        identity["texts"] = f"{len(texts)} texts, {read.hexdigest()[:16]}"
        checkpoints = Checkpoints(plan.out / ready.RUN, identity)
        lessons = [text.lesson() for text in texts if text.ids]
        run = Run(small, lessons, plan.training, checkpoints, self._map(small, head))
        with Bar("small model learns", run.steps) as bar:
            return run.go(tell=bar.tell, minutes=plan.minutes)

    def _agreement(
        self, small: Any, tests: Sequence[Output], head: Sequence[int] | None
    ) -> agreement.Report | None:
        """How far the two agree now; None without held-out prompts."""
        if not tests:
            return None
        exits = self._plan.training.exit_layer
        with self._err.status("measuring agreement"):
            large = small if exits else self._large()
            return agreement.measured(
                small, large, tests, head=head, exit_layer=exits, forced=self._forced
            )

    def _save(self, small: Any, head: Sequence[int] | None) -> None:
        plan = self._plan
        try:
            # What an earlier run of another kind left would be taken for the model.
            for pattern in _WEIGHTS:
                for file in plan.out.glob(pattern):
                    file.unlink()
            if plan.shared and not small.config.is_encoder_decoder:
                draft.save(small, plan.out, _base(plan.large.model, plan.out), head, plan.storage)
                return
            small.to(DTYPES[plan.storage])
            with quiet():
                small.save_pretrained(str(plan.out))
            pairs.readable(plan.out, "config.json")
            for file in plan.large.folder().iterdir():
                if any(file.match(pattern) for pattern in _TOKENIZER):
                    shutil.copyfile(file, plan.out / file.name)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"the aligned model cannot be written to {plan.out} ({error}): make room and "
                "start the same command again; the training is kept"
            ) from None

    def _written(self) -> Any:
        """The aligned model as it stands on disk, rounded to what it is stored in."""
        plan = self._plan
        if hub.is_draft(plan.out):
            found: Any = draft.load(plan.out, DTYPES[plan.small.dtype])
            return found.to(plan.small.device).eval()
        return replace(plan.small, model=str(plan.out), exit_layer=0, layers=()).load()

    def _report(
        self, name: str, before: agreement.Report | None, after: agreement.Report | None,
        asking: Asking, texts: Sequence[Output], tests: Sequence[Output],
    ) -> None:  # fmt: skip
        plan = self._plan
        said = {
            "command": self._command, "date": datetime.now(UTC).date().isoformat(), "corpus": plan.corpus,
            "texts": len(texts), "tokens": sum(len(text.ids) for text in texts),
            "held_out": len(tests), "left_for_tests": asking.tests, "skipped": dict(asking.learned.skipped),
            "torch": torch.__version__,
            "before": before and before.as_dict(), "after": after and after.as_dict(),
        }  # fmt: skip
        try:
            write_whole(plan.out / name, json.dumps(said, indent=1) + "\n")
        except ConfigError as error:
            raise ConfigError(
                f"{error}: make room and start the same command again; the training is kept"
            ) from None

    def _say_skipped(self, found: Questions) -> None:
        if found.skipped:
            self._say(f"{len(found.kept)} prompts; skipped: {counted(found)}")

    def _say(self, line: str) -> None:
        self._err.print(line)


def _base(model: str, out: Path) -> str:
    """How a draft names the model that it belongs to: a folder by the way from the draft to it."""
    path = Path(model).expanduser()
    if not path.is_dir():
        return str(path.resolve()) if path.suffix == ".gguf" else model
    way = os.path.relpath(path.resolve(), out.resolve())
    return way if way.startswith(".") else f"./{way}"
