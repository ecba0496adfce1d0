"""Where the numbers of `bild plan` come from: traces of real texts, and measured passes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bild_dist.app import inproc
from bild_dist.config import Config
from bild_dist.errors import ConfigError
from bild_dist.evaluation.plan import gauge
from bild_dist.evaluation.plan.known import Known, assumed, given
from bild_dist.evaluation.plan.observed import observe, parse, read
from bild_dist.types import Mode, Role
from tests.traces import line

MS = 1_000_000


# A number and its source.


def test_a_share_knows_how_sure_it_is() -> None:
    """Wilson's interval: 45 of 100 is 0.356 to 0.548; more counts narrow it, none has none."""
    low, high = Known.share(45, 100, "guesses").interval or (0, 0)
    assert (round(low, 3), round(high, 3)) == (0.356, 0.548)
    closer = Known.share(450, 1000, "guesses").interval or (0, 1)
    assert high - low > 3 * (closer[1] - closer[0])
    assert given(0.45).interval is None
    assert (Known.share(0, 20, "guesses").interval or (1, 0))[0] == 0


def test_a_number_says_whether_anybody_knows_it() -> None:
    """An assumption is no measurement, and shows."""
    assert not assumed(0.3, "nothing tells").sure
    assert given(0.3).sure
    assert given(0.3).as_dict() == {"value": 0.3, "source": "given"}


# What a trace tells.


def test_rates_are_counted_from_sources_and_guesses() -> None:
    """f of the positions that no window took, rho of those that the small model was sure of, q of
    the guesses that are known; times are means over passes.
    """
    text = line("sssfsrsssw", small_passes=12, large_passes=4, draft_ns=60 * MS,
                verify_ns=100 * MS, wire_ns=4 * MS, guessed=2, hits=1)  # fmt: skip
    found = observe([parse(text), parse(text)])
    assert found.f is not None
    assert (found.f.hits, found.f.count) == (2, 18)
    assert found.rho is not None
    assert (found.rho.hits, found.rho.count) == (2, 16)
    assert found.q is not None
    assert (found.q.hits, found.q.count) == (2, 4)
    times = [found.small_ms, found.large_ms, found.trip_ms]
    assert [known.value for known in times if known is not None] == [5, 25, 0.5]
    assert found.window == 3
    assert found.length == 10


def test_modes_are_told_apart() -> None:
    """A file may mix them: rates come from `bild` alone, agreement from `exact` alone."""
    texts = [
        line("ssfs", small_passes=4, large_passes=1, draft_ns=4 * MS, verify_ns=9 * MS),
        line("f" * 20, small_passes=20, large_passes=5, draft_ns=20 * MS, verify_ns=45 * MS,
             guessed=20, hits=15),
        line("llll", large_passes=4, verify_ns=36 * MS),
        line("ssss", small_passes=4, draft_ns=400 * MS),
    ]  # fmt: skip
    found = observe([parse(text) for text in texts])
    assert found.texts == dict.fromkeys(Mode, 1)
    assert found.f is not None
    assert found.f.count == 4
    assert found.agreement is not None
    assert found.agreement.value == 0.75
    assert found.q is None
    assert found.small_ms is not None
    assert found.small_ms.value == 1
    assert found.large_ms is not None
    assert found.large_ms.value == 9


def test_single_steps_tell_what_a_token_of_a_check_costs() -> None:
    """A check of five that stand took 2 ms more a token than a step; what is wasted is not fed."""
    steps = line("llll", large_passes=4, verify_ns=80 * MS)
    checks = line("sssssf", small_passes=8, large_passes=1, drafted=7, wasted=2,
                  draft_ns=8 * MS, verify_ns=30 * MS)  # fmt: skip
    found = observe([parse(steps), parse(checks)])
    assert found.large_ms is not None
    assert found.large_token_ms is not None
    assert (found.large_ms.value, found.large_token_ms.value) == (18, 2)
    assert observe([parse(checks)]).large_token_ms is None


def test_a_short_text_of_hand_overs_goes_with_its_file() -> None:
    """Two tokens that the large model wrote may be either mode's: the clear ones decide."""
    short, exact, bild = line("ff"), line("f" * 9), line("ssf")
    assert observe([parse(short), parse(exact)]).texts == {Mode.EXACT: 2}
    assert observe([parse(short), parse(exact), parse(bild)]).texts == {Mode.BILD: 2, Mode.EXACT: 1}
    assert observe([parse(short)]).texts == {Mode.BILD: 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"id": "1", "error": {"type": "Overloaded"}}', "failed"),
        ('{"prompt": "x"}', "no trace"),
        (line("sf").replace("small", "tiny", 1), "unknown source"),
        (line(""), "at least one"),
        (line("sf").replace("[7, 7]", "[7]"), "one source a token"),
        (line("sf").replace("draft_ns", "draft"), "lacks draft_ns"),
        (line("sf", draft_ns=-1), "draft_ns = -1"),
        (line("sf", guessed=1, hits=2), "hits = 2"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_goes_on(text: str, reason: str, tmp_path: Path) -> None:
    """By file, line and reason."""
    path = tmp_path / "out.jsonl"
    path.write_text(f"{line('ssf')}\n\n{text}\n")
    found = read([str(path)])
    assert found.texts == {Mode.BILD: 1}
    assert len(found.complaints) == 1
    assert found.complaints[0].startswith(f"{path}:3: ")
    assert reason in found.complaints[0]


@pytest.mark.parametrize("text", ["", "\n", '{"prompt": "x"}\n'])
def test_a_file_without_texts_is_refused(text: str, tmp_path: Path) -> None:
    """With the way to get some."""
    path = tmp_path / "out.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no texts in it: write some with bild generate"):
        read([str(path)])
    with pytest.raises(ConfigError, match="cannot be read"):
        read([str(tmp_path / "none.jsonl")])


# What is measured.


def test_a_line_goes_through_the_times_of_passes() -> None:
    """Noise may bend it: neither part is ever below 0."""
    assert gauge.fit({1: 26.0, 2: 27.0, 16: 41.0}) == pytest.approx((25.0, 1.0))
    assert gauge.fit({1: 11.0, 16: 10.0}) == (10.5, 0.0)
    base_ms, token_ms = gauge.fit({1: 0.0, 16: 17.0})
    assert base_ms == 0
    assert token_ms > 0


async def test_a_running_pair_is_timed_pass_by_pass() -> None:
    """Toys take what they are told to; a busy machine can only make that longer."""
    models = {
        role.value: {"model": f"toy:{role}?ms={ms}&ms_token=1&end=0&seed=3"}
        for role, ms in ((Role.SMALL, 2), (Role.LARGE, 6))
    }
    async with inproc(Config().overlaid(orchestrator={"transport": "inproc"}, **models)) as decoder:
        timed = await gauge.passes(decoder)
        assert 1.5 <= timed[Role.SMALL].base_ms.value < timed[Role.LARGE].base_ms.value < 12
        for found in timed.values():
            assert found.token_ms.value == pytest.approx(1.0, abs=0.5)
            assert 0 < found.trip_ms.value < 20
        seen = await gauge.agreement(decoder, [Mode.EXACT], lambda line: None)
        assert seen.agreement is not None
        assert seen.agreement.count > 20
        # Nothing is left behind: the pair still writes.
        assert len((await decoder.generate("and on", max_new_tokens=8)).tokens) == 8
        async with asyncio.timeout(10):
            while await decoder.workers[Role.LARGE].open_slots() > 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
