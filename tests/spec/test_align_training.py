"""Alignment: lessons, losses, checkpoints and the loop, on models of a few thousand weights."""

import math
import signal

import numpy as np
import pytest
import torch

from bild_dist.errors import ConfigError
from bild_dist.evaluation.align import lessons as cut
from bild_dist.evaluation.align.checkpoint import Checkpoints
from bild_dist.evaluation.align.lessons import IGNORED, Lesson, batch_of, epoch
from bild_dist.evaluation.align.losses import Aim, loss_of
from bild_dist.evaluation.align.models import Source
from bild_dist.evaluation.align.training import Plan, Run, start_id
from bild_dist.model.short_head import ShortHead
from tests.tiny import write_model

FAMILIES = ("llama", "gpt2", "t5", "mt5", "bart", "marian")
LESSONS = [
    Lesson((5, 6, 7, 8), (9, 10, 11, 2)),
    Lesson((12, 13), (14, 2)),
    Lesson((5, 20, 21), (22, 23, 24, 25, 2)),
]


def _with_choices(lesson, width=64, count=3):
    rng = np.random.default_rng(len(lesson.target))
    ids = np.array([rng.permutation(width)[:count] for _ in lesson.target], np.int32)
    masses = np.log(rng.dirichlet(np.ones(count + 1), len(lesson.target))[:, :count])
    return Lesson(lesson.source, lesson.target, ids, masses.astype(np.float16))


def _alone(model, lesson):
    """Log-probabilities of one lesson's positions, without any batching: [T, V]."""
    start = start_id(model)
    with torch.no_grad():
        if start is None:
            ids = torch.tensor([[*lesson.source, *lesson.target[:-1]]])
            rows = model(input_ids=ids).logits[0, len(lesson.source) - 1 :]
        else:
            ids = torch.tensor([[start, *lesson.target[:-1]]])
            rows = model(input_ids=torch.tensor([lesson.source]), decoder_input_ids=ids).logits[0]
    return torch.log_softmax(rows.float(), -1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_teaches_what_its_texts_teach_alone(family, tmp_path):
    """The loss over a batch is the mean over positions, each computed from its own text alone."""
    model = Source(model=str(write_model(tmp_path, family))).load()
    scores = [_alone(model, lesson) for lesson in LESSONS]
    hard = [-s[range(len(x.target)), list(x.target)] for s, x in zip(scores, LESSONS, strict=True)]
    batch = batch_of(LESSONS, start_id(model), 1, model.device)
    found = loss_of(model, batch, Aim())
    assert float(found.detach()) == pytest.approx(float(torch.cat(hard).mean()), abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_distillation_compares_whole_distributions(family, tmp_path):
    """The best choices by their masses, the rest spread evenly, against a sum written out."""
    model = Source(model=str(write_model(tmp_path, family))).load()
    lessons = [_with_choices(lesson) for lesson in LESSONS]
    soft = []
    for lesson in lessons:
        scores = _alone(model, lesson)
        for t, row in enumerate(scores):
            masses = [math.exp(float(x)) for x in lesson.top_logprobs[t]]
            rest = 1 - sum(masses)
            said = sum(m * float(row[i]) for m, i in zip(masses, lesson.top_ids[t], strict=True))
            soft.append(-said - rest * float(row.mean()))
    batch = batch_of(lessons, start_id(model), 1, model.device)
    found = float(loss_of(model, batch, Aim(distil=1.0)).detach())
    assert found == pytest.approx(sum(soft) / len(soft), abs=2e-3)


def test_a_short_head_learns_to_be_unsure_outside(tmp_path):
    """A target that the head lacks asks for an even distribution, one that it has for itself."""
    model = Source(model=str(write_model(tmp_path, "llama"))).load()
    head = [2, 9, 10, 14, 22]
    rows = ShortHead(model.get_output_embeddings(), head).rows
    model.set_output_embeddings(rows.requires_grad_(False))
    table = torch.full((64,), -1)
    table[torch.tensor(head)] = torch.arange(len(head))
    lesson = LESSONS[0]
    with torch.no_grad():
        ids = torch.tensor([[*lesson.source, *lesson.target[:-1]]])
        scores = torch.log_softmax(model(input_ids=ids).logits[0, 3:], -1)
    wanted = [
        -float(scores[0, 1]),
        -float(scores[1, 2]),
        -float(scores[2].mean()),
        -float(scores[3, 0]),
    ]
    found = loss_of(model, batch_of([lesson], None, 1, model.device), Aim(), table)
    assert float(found.detach()) == pytest.approx(sum(wanted) / 4, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_exit_is_the_model_that_is_cut_there(family, tmp_path):
    """Joint training averages the losses of the whole model and of the one cut behind layer 2, as a
    worker with --exit-layer 2 loads it.
    """
    folder = str(write_model(tmp_path, family))
    whole, short = Source(model=folder).load(), Source(model=folder, exit_layer=2).load()
    batch = batch_of(LESSONS, start_id(whole), 1, whole.device)
    alone = [float(loss_of(model, batch, Aim()).detach()) for model in (whole, short)]
    both = float(loss_of(whole, batch, Aim(exit_layer=2)).detach())
    assert alone[0] != pytest.approx(alone[1], abs=1e-3)
    assert both == pytest.approx(sum(alone) / 2, abs=1e-4)


def test_an_epoch_has_every_lesson_once_and_fits():
    """Batches hold every lesson once, within the budget, in an order that only the seed decides."""
    many = [Lesson((1,) * (1 + n % 7), (2,) * (1 + n % 11)) for n in range(300)]
    first = list(epoch(many, 64, 3))
    assert sorted(map(id, (x for batch in first for x in batch))) == sorted(map(id, many))
    assert [list(map(id, b)) for b in epoch(many, 64, 3)] == [list(map(id, b)) for b in first]
    assert [list(map(id, b)) for b in epoch(many, 64, 4)] != [list(map(id, b)) for b in first]
    for batch in first:
        width = max(len(x.source) for x in batch) + max(len(x.target) for x in batch)
        assert width * len(batch) <= 64 or len(batch) == 1
    assert cut.IGNORED == IGNORED == -100


def _run(folder, family, out, **plan):
    torch.manual_seed(0)
    model = Source(model=str(folder)).load()
    asked = Plan(epochs=20, rate=3e-3, tokens=24, **plan)
    return Run(model, LESSONS, asked, Checkpoints(out, {"what": family})), model


@pytest.mark.parametrize(
    ("family", "plan"),
    [("llama", {}), ("t5", {"optimizer": "adamw", "schedule": "decay"}), ("bart", {"distil": 0.5})],
)
def test_an_interrupted_run_gives_the_same_model(family, plan, tmp_path):
    """Stopped three times and gone on with in fresh processes' stead: the same weights, bit by
    bit, and they learned something.
    """
    folder = write_model(tmp_path / "model", family)
    straight, model = _run(folder, family, tmp_path / "straight", **plan)
    losses = []
    assert straight.go(tell=lambda step: losses.append(step.loss))
    assert losses[-1] < losses[0]
    for _ in range(3):
        stopped, _ = _run(folder, family, tmp_path / "stopped", **plan)

        def stop(step):
            if step.step % 7 == 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stopped.go(tell=stop)
    last, other = _run(folder, family, tmp_path / "stopped", **plan)
    assert last.go()
    for (name, weight), (_, found) in zip(
        model.named_parameters(), other.named_parameters(), strict=True
    ):
        assert torch.equal(weight, found), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_inside_a_step_waits_for_its_end(number, tmp_path):
    """Ctrl-C or kill while the weights move: they and the count of steps move together."""
    folder = write_model(tmp_path / "model", "llama")
    straight, model = _run(folder, "llama", tmp_path / "straight")
    assert straight.go()
    stopped, _ = _run(folder, "llama", tmp_path / "stopped")
    step = stopped._optimizer.step

    def interrupted(*arguments, **options):
        if stopped.done == 3:
            signal.raise_signal(number)
        return step(*arguments, **options)

    stopped._optimizer.step = interrupted
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            stopped.go()
    finally:
        signal.signal(number, before)
    assert stopped.done == 4
    last, other = _run(folder, "llama", tmp_path / "stopped")
    assert last.go()
    for weight, found in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, found)


def test_a_time_limit_stops_between_steps(tmp_path):
    """--minutes ends a run early, and says that it is not complete."""
    run, _ = _run(write_model(tmp_path / "model", "llama"), "llama", tmp_path / "out")
    assert not run.go(minutes=1e-9)
    assert run.done == 1


def test_bfloat16_learns_in_float32(tmp_path):
    """Steps that bfloat16 cannot add are kept in a float32 copy, and add up."""
    folder = write_model(tmp_path / "model", "llama")
    model = Source(model=str(folder), dtype="bfloat16").load()
    first = {name: weight.clone() for name, weight in model.named_parameters()}
    run = Run(
        model, LESSONS, Plan(epochs=200, rate=2e-5, tokens=24), Checkpoints(tmp_path / "out", {})
    )
    assert run.go()
    assert all(weight.dtype == torch.bfloat16 for weight in model.parameters())
    assert any(not torch.equal(first[name], weight) for name, weight in model.named_parameters())


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    """What differs is named; nothing is overwritten."""
    Checkpoints(tmp_path, {"rate": 1}).save({"step": 3}, {"w": torch.ones(2)})
    with pytest.raises(ConfigError, match="rate = 1, not 2"):
        Checkpoints(tmp_path, {"rate": 2}).load()
    found = Checkpoints(tmp_path, {"rate": 1}).load()
    assert found is not None
    assert found[0] == {"step": 3}


def test_no_room_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    """A disk that is full in the middle of a checkpoint: a clear error, and the one before is
    whole.
    """
    kept = Checkpoints(tmp_path, {})
    kept.save({"step": 1}, {"w": torch.ones(2)})

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bild_dist.evaluation.align.checkpoint.save_file", full)
    with pytest.raises(ConfigError, match=r"No space left.*make room.*step-0000001"):
        kept.save({"step": 2}, {"w": torch.zeros(2)})
    monkeypatch.undo()
    found = Checkpoints(tmp_path, {}).load()
    assert found is not None
    assert found[0] == {"step": 1}
    assert torch.equal(found[1]["w"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000001"]


def test_damaged_checkpoints_are_named(tmp_path):
    """Cut off in the middle: an error that says which folder to remove."""
    kept = Checkpoints(tmp_path, {})
    kept.save({"step": 1}, {"w": torch.ones(200)})
    file = tmp_path / "step-0000001" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ConfigError, match="step-0000001 is damaged"):
        kept.load()


def test_nothing_to_learn_is_an_error(tmp_path):
    """Without lessons there is no run."""
    model = Source(model=str(write_model(tmp_path, "llama"))).load()
    with pytest.raises(ConfigError, match="nothing to learn"):
        Run(model, [], Plan(), Checkpoints(tmp_path / "out", {}))
