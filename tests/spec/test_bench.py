"""`bild bench`, part by part: who takes part, what is written, how figures come of raw numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bild_dist.config import Config
from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.evaluation.bench import figures, options, prompts
from bild_dist.evaluation.bench.chain import critical_ns
from bild_dist.evaluation.bench.contestants import Contestant, Peer, lineup
from bild_dist.evaluation.bench.figures import Comparison, of_outcome
from bild_dist.evaluation.bench.job import Job
from bild_dist.evaluation.bench.options import planned
from bild_dist.evaluation.bench.prompts import Task
from bild_dist.evaluation.bench.table import table
from bild_dist.evaluation.metrics.overlap import agreement
from bild_dist.orchestrator.story import Block, Chip, Kind, Story
from bild_dist.types import Mode, Options, Role, Schedule, Source

PAPER = Contestant(mode=Mode.EXACT, schedule=Schedule.PAPER, transport="zmq")
OVERLAP = Contestant(mode=Mode.BILD, schedule=Schedule.OVERLAP, transport="zmq")
ALONE = Contestant(mode=Mode.LARGE, transport="zmq")
GENERATE = Contestant(peer=Peer.GENERATE)


def test_everybody_takes_part_unless_told_otherwise() -> None:
    """Both peers, and each mode in each schedule; a model that writes alone has no schedule."""
    names = [contestant.name for contestant in planned([]).field]
    assert names == [
        "generate", "assisted", "bild/paper/zmq", "bild/through/zmq", "bild/overlap/zmq",
        "exact/paper/zmq", "exact/through/zmq", "exact/overlap/zmq", "large/zmq", "small/zmq",
    ]  # fmt: skip


def test_names_choose_who_takes_part() -> None:
    """Each list is taken in its order and each name once; every transport has all of them."""
    plan = planned(["--modes", "large, bild,large", "--schedules", "overlap", "--no-peers",
                    "--transports", "grpc,inproc"])  # fmt: skip
    assert [contestant.name for contestant in plan.field] == [
        "large/grpc", "bild/overlap/grpc", "large/inproc", "bild/overlap/inproc",
    ]  # fmt: skip


BAD_USE = {
    "a misspelt mode": (["--modes", "bild,exakt"], "did you mean 'exact'"),
    "a misspelt schedule": (["--schedules", "overlapp"], "did you mean 'overlap'"),
    "a misspelt transport": (["--transports", "zqm"], "did you mean 'zmq'"),
    "a list of nothing": (["--modes", ","], "at least one"),
    "no prompts": (["--prompts", "/nowhere.jsonl"], "cannot be read"),
    "no rounds": (["--rounds", "0"], "--rounds 0"),
    "no texts": (["--count", "0"], "--count 0"),
    "one model of two": (["--small", "a"], "both"),
    "a time for one toy only": (["--paced", "small=5ms"], "large=5ms"),
    "an unknown habit of toys": (["--paced", "small=5,large=9,rhoo=1"], "did you mean 'rho'"),
    "a time that is none": (["--paced", "small=five,large=9"], "ms = 'five'"),
    "toys and models": (["--paced", "small=5,large=9", "--small", "a"], "leave out"),
    "toys and transformers": (["--paced", "small=5,large=9", "--peers"], "leave out"),
    "a threshold out of range": (["--alpha-fb", "2"], "alpha_fb"),
}


@pytest.mark.parametrize(("argv", "needle"), BAD_USE.values(), ids=BAD_USE)
def test_bad_use_is_refused_before_anything_starts(argv: list[str], needle: str) -> None:
    """The message names what was found, and what would have done."""
    with pytest.raises((ConfigError, InvalidRequest), match=needle):
        planned(argv)


@pytest.mark.parametrize("line", ['stop = ["x"]', "deadline = 1.5"])
def test_texts_that_are_cut_short_are_not_compared(tmp_path: Path, line: str) -> None:
    """Where a text ends by a stop string or by the clock, peers would write another one."""
    file = tmp_path / "bench.toml"
    file.write_text(f"[generate]\n{line}\n")
    with pytest.raises(ConfigError, match="leave them out"):
        planned(["-c", str(file)])


def test_every_option_of_a_request_is_offered() -> None:
    """But for those in which contestants differ, that cut texts short, or that nothing reports."""
    known = {action.dest for action in options.parser()._actions}
    fields = set(Options.__dataclass_fields__)
    rest = {"mode", "schedule", "stop", "deadline", "logprobs", "traceparent"}
    assert fields - known == rest


def test_paced_models_are_toys_that_never_end() -> None:
    """Both follow one script, so that they agree as asked, and all texts have one length."""
    plan = planned(["--paced", "small=5ms, large=25,f=0.5"])
    assert plan.config.small.model == "toy:small?end=0&f=0.5&ms=5"
    assert plan.config.large.model == "toy:large?end=0&f=0.5&ms=25"
    assert all(contestant.peer is None for contestant in plan.field)


def test_prompts_come_from_a_file(tmp_path: Path) -> None:
    """A text, a conversation or ids a line, with references and what every contestant honours."""
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"id": 7, "prompt": "a", "reference": "b", "max_new_tokens": 3}\n\n'
        '{"prompt_tokens": [1, 2], "reference": ["c", "d"]}\n'
    )
    assert prompts.read(str(file)) == [
        Task("a", {"max_new_tokens": 3}, ("b",)),
        Task([1, 2], {}, ("c", "d")),
    ]


BAD_LINES = {
    "nothing": ("\n", "has no prompts"),
    "no JSON": ("nonsense\n", "line 1 is not JSON"),
    "no object": ("[1]\n", "line 1 must be a JSON object"),
    "no prompt": ('{"prompt": "a"}\n{"reference": "a"}\n', "line 2 needs one of"),
    "an empty prompt": ('{"prompt": ""}\n', "something in it"),
    "two prompts": ('{"prompt": "a", "prompt_tokens": [1]}\n', "needs one of"),
    "an unknown field": ('{"promt": "a"}\n', "did you mean 'prompt'"),
    "a bad reference": ('{"prompt": "a", "reference": 3}\n', "reference must be"),
}


@pytest.mark.parametrize(("text", "needle"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_of_prompts_is_named(tmp_path: Path, text: str, needle: str) -> None:
    """A measurement over half of the prompts would be another one: nothing starts."""
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigError, match=needle):
        prompts.read(str(file))


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    """The process that runs a contestant has the very configuration that was asked for."""
    config = Config().overlaid(
        large={"ignore_generation": ("num_beams",), "threads": 2},
        generate={"alpha_rb": float("inf"), "max_new_tokens": 5},
    )
    for contestant in (GENERATE, OVERLAP, ALONE):
        job = Job(contestant, config, (Task("a", {"tgt_lang": "de"}),), built_in=True)
        job.write(tmp_path / "job.json")
        assert Job.read(tmp_path / "job.json") == job


def test_a_contestant_sets_mode_and_schedule() -> None:
    """All else is as the configuration says."""
    made = Job(OVERLAP, Config().overlaid(generate={"window": 4}), ()).options()
    assert (made.mode, made.schedule, made.window) == (Mode.BILD, Schedule.OVERLAP, 4)


def block(
    role: Role, kind: Kind, sent: int, start: int, end: int, seen: int, passes: int = 1
) -> Block:
    return Block(
        role=role, kind=kind, epoch=0, seq=1, sent_ns=sent, came_ns=sent, start_ns=start,
        end_ns=end, back_ns=seen, seen_ns=seen, passes=passes,
    )  # fmt: skip


def told(*blocks: Block) -> Story:
    """A story whose last token came with its last block."""
    chip = Chip(1, Source.LARGE, None, None, blocks[-1].seen_ns, len(blocks) - 1)
    return Story(1, 0, blocks[-1].seen_ns, blocks=list(blocks), chips=[chip])


def test_models_that_alternate_leave_out_nothing_but_the_wire() -> None:
    """On the schedule `paper` the critical path is the sum of all drafts and checks."""
    story = told(
        block(Role.SMALL, Kind.DRAFT, 0, 10, 30, 40),
        block(Role.LARGE, Kind.CHECK, 41, 50, 75, 85),
        block(Role.SMALL, Kind.DRAFT, 86, 90, 100, 110),
        block(Role.LARGE, Kind.CHECK, 111, 120, 145, 155),
    )
    assert critical_ns(story) == 20 + 25 + 10 + 25


def test_a_draft_under_a_check_is_no_further_time() -> None:
    """What was asked for before an answer was known does not wait for it; what came after does."""
    story = told(
        block(Role.SMALL, Kind.DRAFT, 0, 10, 30, 40),
        block(Role.SMALL, Kind.DRAFT, 0, 30, 50, 60),
        block(Role.LARGE, Kind.CHECK, 41, 50, 75, 85),
        block(Role.LARGE, Kind.CHECK, 86, 90, 115, 120),
    )
    assert critical_ns(story) == 20 + 25 + 25


def test_a_worker_does_one_thing_after_another() -> None:
    """Prompts are read before the first pass, each model its own, at the same time."""
    story = told(
        block(Role.LARGE, Kind.PREFILL, 2, 2, 102, 102),
        block(Role.SMALL, Kind.PREFILL, 3, 3, 13, 13),
        block(Role.SMALL, Kind.DRAFT, 4, 14, 24, 30),
        block(Role.LARGE, Kind.CHECK, 31, 102, 127, 130),
    )
    assert critical_ns(story) == 100 + 25


def test_a_draft_that_is_taken_back_ends_with_the_pass_under_way() -> None:
    """Of five wasted passes of 10, those after the answer came at 40 count for nobody but the
    first.
    """
    story = told(
        block(Role.SMALL, Kind.DRAFT, 0, 5, 15, 20),
        block(Role.LARGE, Kind.CHECK, 20, 25, 60, 65),
        block(Role.SMALL, Kind.STOPPED, 16, 16, 66, 66, passes=5),
        block(Role.SMALL, Kind.DRAFT, 66, 70, 80, 90),
    )
    # The check ends at 10 + 35; of the draft that goes on from 10 the fourth pass ends at 50.
    assert critical_ns(story) == 50 + 10


def test_a_recording_without_a_token_has_no_path() -> None:
    """There is nothing to say of a request that failed."""
    assert critical_ns(Story(1, 0, 10)) is None


def test_agreement_is_the_share_that_two_texts_have_in_common() -> None:
    """One wrong token costs one token, wherever it stands: what follows may still agree."""
    assert agreement([1, 2, 3, 4], [1, 2, 3, 4]) == 1
    assert agreement([1, 9, 3, 4], [1, 2, 3, 4]) == 0.75
    assert agreement([9, 1, 2, 3], [1, 2, 3]) == pytest.approx(6 / 7)
    assert agreement([5, 6], [1, 2]) == 0
    assert agreement([], []) == 1


def test_words_are_compared_only_where_there_is_something_to_compare() -> None:
    """Without references, or without the package that counts, the columns are left out."""
    texts = [{"text": "a b"}]
    assert figures.against_references(texts, [Task("x")]) == {}
    found = figures.against_references(texts, [Task("x", {}, ("a b",))])
    assert set(found) == {"bleu", "chrf"}


def outcome(seconds: float, tokens: list[int], **more: Any) -> dict[str, Any]:
    """Raw numbers of one contestant that wrote one text."""
    trace = {
        "drafted": 4, "wasted": 1, "large_passes": 2, "draft_ns": 2_000, "verify_ns": 6_000,
        "wire_ns": 1_000, "queue_ns": 500,
    }  # fmt: skip
    text = {
        "tokens": tokens, "text": "", "wall_ns": 10_000, "first_token_ns": 3_000_000,
        "critical_ns": 9_000, "trace": trace,
    }  # fmt: skip
    return {
        "texts": [text], "wall_ns": int(seconds * 1e9), "cpu_ns": 4_000_000, "answers": 8,
        "large_passes": 2, "memory": {"orchestrator": 2**20, "small": 2**20, "large": 2**21},
        "runs_on": "", **more,
    }  # fmt: skip


def test_figures_are_what_they_are_called() -> None:
    """Shares are of the wall clock of the texts, memory in MiB, times in ms."""
    assert of_outcome(outcome(0.5, [1, 2, 3, 4])) == pytest.approx({
        "tokens_per_s": 8, "large_passes_per_token": 0.5, "first_token_ms": 3, "wasted": 0.25,
        "compute": 0.8, "wire": 0.1, "queue": 0.05, "efficiency": 0.9, "cpu_ms_per_answer": 0.5,
        "orchestrator_mib": 1, "models_mib": 3,
    })  # fmt: skip


def test_what_does_not_apply_is_left_out() -> None:
    """A peer has no orchestrator and no trace; a process that has gone has no memory."""
    raw = outcome(1, [1], cpu_ns=None, answers=None, memory={"program": None})
    raw["texts"][0] |= {"trace": None, "critical_ns": None}
    assert set(of_outcome(raw)) == {"tokens_per_s", "large_passes_per_token", "first_token_ms"}


def test_ratios_are_taken_within_a_round() -> None:
    """Where a whole round was slow, both were: the median is that of the ratios."""
    comparison = Comparison([GENERATE, OVERLAP], [Task("a")])
    rounds = [
        {"generate": outcome(2, [1, 2]), OVERLAP.name: outcome(1, [1, 2])},
        {OVERLAP.name: outcome(10, [1, 2]), "generate": outcome(30, [1, 2])},
        {"generate": outcome(8, [1, 2]), OVERLAP.name: outcome(2, [1, 2])},
    ]
    found = comparison.medians(rounds)
    assert found[OVERLAP.name]["ratio"] == {"median": 3, "min": 2, "max": 4}
    assert found["generate"]["ratio"] == {"median": 1, "min": 1, "max": 1}


def test_the_large_model_alone_is_the_base_without_peers() -> None:
    """Over the same transport, so that a ratio says what the second model brings."""
    other = Contestant(mode=Mode.LARGE, transport="grpc")
    comparison = Comparison([OVERLAP, other, ALONE], [])
    assert comparison.base(OVERLAP) == ALONE.name
    assert comparison.base(other) == other.name
    assert comparison.base(Contestant(mode=Mode.SMALL, transport="inproc")) is None


def test_a_schedule_is_compared_with_paper() -> None:
    """Of the same mode over the same transport."""
    both = lineup(modes=[Mode.BILD], schedules=list(Schedule), transports=["zmq"], peers=False)
    ran = {c.name: outcome(1 / (1 + n), [1]) for n, c in enumerate(both)}
    found = Comparison(both, [Task("a")]).of_round(ran)
    assert found["bild/overlap/zmq"]["over_paper"] == pytest.approx(3)
    assert found["bild/paper/zmq"]["over_paper"] == 1


def test_those_who_promise_the_large_models_text_are_held_to_it() -> None:
    """By transformers' own, where it takes part; all others only say how near they come."""
    ran = {
        "generate": outcome(1, [1, 2]),
        PAPER.name: outcome(1, [1, 3]),
        ALONE.name: outcome(1, [1, 2]),
        OVERLAP.name: outcome(1, [1, 3]),
    }
    found = Comparison([GENERATE, PAPER, ALONE, OVERLAP], [Task("a")]).of_round(ran)
    assert (found[ALONE.name]["same_text"], found[PAPER.name]["same_text"]) == (1, 0)
    assert "same_text" not in found[OVERLAP.name]
    assert found[OVERLAP.name]["agreement"] == 0.5


def test_texts_that_are_drawn_are_not_held_to_those_of_others() -> None:
    """Each program draws with noise of its own; ours is the same in all modes."""
    ran = {"generate": outcome(1, [1, 2]), ALONE.name: outcome(1, [3, 4])}
    found = Comparison([GENERATE, ALONE], [Task("a")], sampled=True).of_round(ran)
    assert found[ALONE.name]["same_text"] == 1
    assert "same_text" not in found["generate"]


def test_who_failed_is_no_obstacle_to_the_others() -> None:
    """Without the base there is no ratio, and everything else is there."""
    error = {"error": {"type": "ConfigError", "message": "no"}}
    ran = {"generate": error, ALONE.name: outcome(1, [1])}
    found = Comparison([GENERATE, ALONE], [Task("a")]).of_round(ran)
    assert "generate" not in found
    assert "ratio" not in found[ALONE.name]
    assert found[ALONE.name]["same_text"] == 1


def test_the_table_has_no_empty_columns() -> None:
    """What nobody has is not shown; efficiency and the gain over `paper` are for paced toys."""
    ran = {ALONE.name: outcome(1, [1])}
    comparison = Comparison([ALONE], [Task("a")])
    rows = [{"name": ALONE.name, "error": None, "figures": comparison.medians([ran])[ALONE.name]}]
    for paced, shown in ((None, False), ("small=5,large=25", True)):
        grid = table({"contestants": rows, "settings": {"paced": paced}})
        heads = [str(column.header).replace("\n", "").replace("-", "") for column in grid.columns]
        assert ("efficiency" in heads) == shown
        assert "BLEU" not in heads
        assert "tokens/s" in heads


def test_figures_are_json(tmp_path: Path) -> None:
    """Medians are rounded to what a reader can use, and no more than six digits."""
    comparison = Comparison([ALONE], [Task("a")])
    found = comparison.medians([{ALONE.name: outcome(1 / 3, [1])}])
    assert json.loads(json.dumps(found))[ALONE.name]["tokens_per_s"]["median"] == 3


def test_only_the_process_of_the_peers_loads_torch() -> None:
    """Our own orchestrator is measured as it runs elsewhere: without 250 MB of somebody else's."""
    program = """
import importlib, pkgutil, sys
from bild_dist.evaluation import bench
for module in pkgutil.iter_modules(bench.__path__):
    if module.name != "peers":
        importlib.import_module(f"bild_dist.evaluation.bench.{module.name}")
print(sorted({"torch", "transformers", "numpy"} & set(sys.modules)))
"""
    words = [sys.executable, "-c", program]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n"
