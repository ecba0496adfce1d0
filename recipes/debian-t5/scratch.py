"""Steps 2 and 3: a T5 that learns from the references, from nothing."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.checkpoint import Checkpoints
from bild_dist.evaluation.align.lessons import Lesson
from bild_dist.evaluation.align.models import Source
from bild_dist.evaluation.align.progress import Bar
from bild_dist.evaluation.align.training import Plan, Run, as_numbers
from bild_dist.evaluation.corpora import named

LONGEST = 250
"""Most ids of a source or a target; longer pairs are left out."""
_HERE = ("out", "minutes", "threads", "device", "tokenizer", "grow")
"""Options that say where something is, or when to stop: what lies there counts, not its name."""


def main(argv: Sequence[str]) -> int:
    """Trains, or goes on training; the finished model lies in --out. Exit code: 0 done or stopped in time, 2 a
    run of other settings lies there.
    """
    # Whoever ends it by `kill` wants to go on as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        train(parser().parse_args(argv))
    except ConfigError as error:
        sys.stderr.write(f"scratch: {error}\n")
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", action="append", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder-layers", type=int, default=4)
    parser.add_argument("--decoder-layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--inner", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--grow", type=Path, metavar="FOLDER",
                        help="begin as this model, whose decoder has fewer layers")  # fmt: skip
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    return parser


def train(chosen: argparse.Namespace) -> None:
    """One model from nothing, or from a shallow one.

    Raises:
        ConfigError: a run of other settings lies in --out; names what differs.
    """
    if (chosen.out / "model.safetensors").is_file():
        return
    torch.set_num_threads(chosen.threads or os.cpu_count() or 1)
    torch.manual_seed(0)
    tokenizer: Any = T5Tokenizer.from_pretrained(str(chosen.tokenizer))
    model: Any = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer), d_model=chosen.width, d_ff=chosen.inner, num_heads=chosen.heads,
            d_kv=chosen.width // chosen.heads, num_layers=chosen.encoder_layers,
            num_decoder_layers=chosen.decoder_layers, feed_forward_proj="gated-gelu",
            dropout_rate=chosen.dropout, tie_word_embeddings=True, decoder_start_token_id=0,
            pad_token_id=0, eos_token_id=1, attn_implementation="eager",
        )
    )  # fmt: skip
    if chosen.grow is None:
        soften(model)
    else:
        grow(model, T5ForConditionalGeneration.from_pretrained(str(chosen.grow)))
    lock(model)
    model.generation_config.max_length = LONGEST
    model.to(dtype=getattr(torch, chosen.dtype), device=chosen.device)
    plan = Plan(chosen.epochs, chosen.rate, "decay", "adamw", chosen.tokens)
    lessons = lessons_of(chosen.corpus, tokenizer)
    checkpoints = Checkpoints(
        chosen.out / "training", {**as_numbers(plan), **identity(chosen, lessons)}
    )
    run = Run(model, lessons, plan, checkpoints)
    with Bar(chosen.out.name, run.steps) as bar:
        complete = run.go(tell=bar.tell, minutes=chosen.minutes)
    if complete:
        model.to(torch.bfloat16).save_pretrained(str(chosen.out))
        tokenizer.save_pretrained(str(chosen.out))


def identity(chosen: argparse.Namespace, lessons: Sequence[Lesson]) -> dict[str, Any]:
    """What a run must have in common with the one that it goes on with: what is chosen, the ids that are
    learned from, which tell the tokenizer too, and the model that it grows from.
    """
    read = sha256(json.dumps([(lesson.source, lesson.target) for lesson in lessons]).encode())
    return {
        **{name: value for name, value in vars(chosen).items() if name not in _HERE},
        "lessons": f"{len(lessons)} texts, {read.hexdigest()[:16]}",
        "grow": chosen.grow and Source(model=str(chosen.grow)).fingerprint(),
    }


class LockedDropout(torch.nn.Module):
    """Drops whole features of a text, the same at every position (Gal and Ghahramani, 2016).

    A mask of its own for every number takes a quarter of a step on a CPU, because torch draws them
    one after another; this one takes nothing.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Shapes: `rows` [B, T, D], result the same."""
        if not self.training or rows.dim() != 3:
            return rows
        kept = torch.rand(rows.shape[0], 1, rows.shape[2], device=rows.device) >= self.share
        return rows * (kept.to(rows.dtype) / (1 - self.share))


def lock(model: torch.nn.Module) -> None:
    """Replaces every dropout of a T5; the attention weights get none."""
    for parent in list(model.modules()):
        if isinstance(getattr(parent, "dropout", None), float):
            parent.dropout = 0.0
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Dropout):
                setattr(parent, name, LockedDropout(child.p))


def soften(model: torch.nn.Module) -> None:
    """Lets every layer begin close to doing nothing, without which a deep narrow model hardly
    learns at first (measured after 110 s: loss 5.96 against 6.17).
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith((".o.weight", ".wo.weight")):
                weight.mul_(0.3)


@torch.no_grad()
def grow(deep: Any, shallow: Any) -> None:
    """Gives a model the weights of one with fewer decoder layers, each layer as several in a row
    that do a share of it.

    A residual layer adds f(x) to x; n layers that add f(x) / n each come close to it. So most of
    the training is that of a shallow model, at a third of the cost.
    """
    own, found = deep.state_dict(), shallow.state_dict()
    copies, rest = divmod(len(deep.decoder.block), len(shallow.decoder.block))
    if rest or len(deep.encoder.block) != len(shallow.encoder.block):
        raise SystemExit(
            "--grow needs as many encoder layers, and a whole multiple of decoder layers"
        )
    for name, weight in own.items():
        parts = name.split(".")
        if name.startswith("decoder.block."):
            parts[2] = str(int(parts[2]) // copies)
        source = found[".".join(parts)].to(weight.dtype)
        shared = name.startswith("decoder.block.") and name.endswith((".o.weight", ".wo.weight"))
        weight.copy_(source / copies if shared else source)


def lessons_of(corpora: list[str], tokenizer: Any) -> list[Lesson]:
    """The references of the training splits, as ids."""
    examples = [example for name in corpora for example in named.load(name, "train")]
    sources = tokenizer([example.prompt for example in examples])["input_ids"]
    targets = tokenizer([example.reference for example in examples])["input_ids"]
    return [
        Lesson(tuple(source), tuple(target))
        for source, target in zip(sources, targets, strict=True)
        if max(len(source), len(target)) <= LONGEST
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
