"""The aligned pair in the real decoder: what its passes cost, and what its texts are like."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bild_dist.config import Config, WorkerConfig
from bild_dist.evaluation.align import agreement
from bild_dist.evaluation.align.agreement_replay import replay_of, replayed
from bild_dist.evaluation.align.agreement_speed import Times, speeds
from bild_dist.evaluation.align.options import Alignment
from bild_dist.evaluation.align.outputs import Output
from bild_dist.evaluation.align.report import Replay, Report
from bild_dist.evaluation.plan import gauge

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess


def config_of(plan: Alignment) -> Config:
    """The configuration of the aligned pair: both models in this process, in the dtype of the
    alignment.
    """
    common: dict[str, Any] = {
        "dtype": plan.large.dtype, "device": plan.large.device, "threads": plan.threads,
        "max_length": plan.max_length, "trust_remote_code": plan.large.trust_remote_code,
        "ignore_generation": plan.large.ignored,
    }  # fmt: skip
    out, exits = str(plan.out), plan.training.exit_layer
    return Config(
        small=WorkerConfig(model=out, exit_layer=exits, **common),
        large=WorkerConfig(model=out if exits else plan.large.model, **common),
    )


def completed(
    plan: Alignment, inproc: InProcess, before: Report, after: Report, tests: Sequence[Output],
    large: Any, forced: int | None, say: Callable[[str], None],
) -> tuple[Report, Report]:  # fmt: skip
    """Both reports with predicted speeds, at the costs that are measured now; the later one with
    texts of mode `bild` too, if they are asked for.

    Raises:
        BildError: the pair cannot be opened, or a text cannot be written.
    """
    times, replays = asyncio.run(_opened(plan, inproc, after, tests, large, forced, say))
    say("predicting speeds")
    found = [report.having(speeds=speeds(report, times)) for report in (before, after)]
    return found[0], found[1].having(replays=replays)


async def _opened(
    plan: Alignment, inproc: InProcess, report: Report, tests: Sequence[Output], large: Any,
    forced: int | None, say: Callable[[str], None],
) -> tuple[Times, list[Replay]]:  # fmt: skip
    say("opening the aligned pair")
    async with inproc(config_of(plan), None) as decoder:
        say("timing passes")
        times = Times.measured(await gauge.passes(decoder))
        replays = []
        for alpha_fb, alpha_rb in plan.replays:
            say(f"writing texts at {alpha_fb:g}/{alpha_rb:g}")
            texts = await replayed(
                decoder, tests, alpha_fb=alpha_fb, alpha_rb=alpha_rb,
                max_new_tokens=plan.writing.max_new_tokens, src_lang=plan.src_lang or None,
                tgt_lang=plan.tgt_lang or None,
            )  # fmt: skip
            best = [own for _, own in agreement.judged(large, texts, forced=forced)]
            replays.append(
                replay_of(
                    texts,
                    alpha_fb=alpha_fb,
                    alpha_rb=alpha_rb,
                    greedy_nats=report.own_nats,
                    best=best,
                )
            )
    return times, replays
