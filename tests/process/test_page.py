"""The page of `bild serve`: what people see of a text while it is written, and what they can do with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.page import (
    ROLLBACKS,
    SLOW,
    WATCH,
    bodies,
    canned,
    chunk,
    done,
    opened,
    ready,
    says,
    tokens,
    write,
)
from tests.serving import TEMPLATE, serving

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]


async def test_each_token_shows_who_wrote_it(browser: Browser) -> None:
    """All tokens, in order, in the class of their source; the live region has the same text, and the
    figures are those of the trace.
    """
    # Two texts are compared: on this schedule alone their passes do not depend on the clock.
    paper = {"schedule": "paper"}
    async with serving(ROLLBACKS, generate=paper) as served, opened(browser, served) as page:
        await write(page, max_tokens=90)
        await done(page)
        wanted: list[tuple[str, str]] = []
        trace: dict[str, Any] = {}
        for part in await served.chunks({"prompt": "The sea", "max_tokens": 90, "bild": True}):
            shown = part["choices"][0].get("bild", {})
            wanted += [(token["text"], token["source"]) for token in shown.get("tokens", [])]
            trace = shown.get("trace", trace)
        assert wanted == await tokens(page)
        assert {"small", "fallback", "rollback"} <= {source for _, source in wanted}
        spoken = "".join(await page.locator("#spoken p").all_text_contents())
        assert "".join(text for text, _ in wanted).split() == spoken.split()
        figures = dict(zip(
            await page.locator("#figures span").all_inner_texts(),
            await page.locator("#figures b").all_inner_texts(), strict=True,
        ))  # fmt: skip
        assert ("90", str(trace["fallbacks"])) == (figures["tokens"], figures["fallbacks"])
        assert str(trace["rollbacks"]) == figures["rollbacks"]
        assert f"{trace['large_passes'] / 90:.2f}" == figures["large passes a token"]


async def test_guesses_stand_pale_and_rollbacks_are_struck_before_they_vanish(
    browser: Browser,
) -> None:
    """What the large model takes back was there, is struck through for all who see, is nothing for
    those who listen, and is gone at the end; what stays is the text.
    """
    paper = {"schedule": "paper"}
    async with serving(ROLLBACKS, generate=paper) as served, opened(browser, served) as page:
        await page.evaluate(WATCH)
        await write(page, max_tokens=90)
        await done(page)
        replaced = [
            event["old"]["text"]
            for part in await served.chunks(
                {"prompt": "The sea", "max_tokens": 90, "bild": {"events": True}}
            )
            for event in part["choices"][0].get("bild", {}).get("events", [])
            if event["type"] == "replaced" and event["source"] == "rollback"
        ]
        await page.locator(".text .struck").last.wait_for(state="detached")
        seen = await page.evaluate("window.seen")
        assert len(replaced) > 2
        assert set(replaced) <= set(seen["struck"])
        assert len(seen["guess"]) > 40
        assert {("line-through", "true")} == {tuple(style) for style in seen["styles"]}
        assert 0 == await page.locator(".text .guess, .text .struck").count()
        assert len(await tokens(page)) == 90


async def test_what_the_controls_say_is_sent(browser: Browser) -> None:
    """Thresholds that were moved, by hand or slider; none of them where the mode knows none; and
    before anything is moved, the server's own.
    """
    sent: list[dict[str, Any]] = []
    async with (
        serving(generate={"alpha_fb": 0.3, "max_new_tokens": 12}) as served,
        opened(browser, served) as page,
    ):
        bodies(page, sent)
        await ready(page)
        await write(page)
        await done(page)
        await page.fill("#alpha_fb", "0.85")
        await page.focus("#alpha_rb-slide")
        for _ in range(5):
            await page.keyboard.press("ArrowLeft")
        await page.press("#prompt", "Control+Enter")
        await done(page)
        await page.select_option("#mode", "exact")
        assert await page.locator("#alpha_fb").is_disabled()
        await page.press("#prompt", "Control+Enter")
        await done(page)
    own, moved, exact = sent
    assert (0.3, 2, 10, 12) == tuple(
        own[name] for name in ("alpha_fb", "alpha_rb", "window", "max_tokens")
    )
    assert (0.85, 1.5, "bild") == (moved["alpha_fb"], moved["alpha_rb"], moved["mode"])
    assert "exact" == exact["mode"]
    assert not {"alpha_fb", "alpha_rb"} & set(exact)


async def test_stop_closes_the_stream(browser: Browser) -> None:
    """By button or Escape: the page says how far it came, and no worker holds a slot any longer."""
    async with serving(SLOW) as served, opened(browser, served) as page:
        for key in (False, True):
            await write(page, max_tokens=1500)
            await page.locator(".text .t").nth(3).wait_for()
            if key:
                await page.keyboard.press("Escape")
            else:
                await page.click("#stop")
            await says(page, "#state", "^Stopped after [0-9]+ tokens")
            await served.drained()
            assert await page.locator("#problem").is_hidden()
            assert 1 == await page.locator("article").count()


async def test_both_lanes_are_drawn(browser: Browser) -> None:
    """The canvas has cells of the small model and checks of the large one, and a name that says how
    busy they were.
    """
    async with serving(SLOW) as served, opened(browser, served) as page:
        await write(page, max_tokens=40)
        await done(page)
        named = page.locator("#lanes[aria-label*='small busy']")
        assert re.search(
            "small busy [1-9][0-9]* %.*large busy [1-9]",
            await named.get_attribute("aria-label") or "",
        )
        assert int(await named.get_attribute("data-blocks") or 0) > 6
        count = """() => new Promise((got) => requestAnimationFrame(() => requestAnimationFrame(() => {
          const c = document.getElementById('lanes'), half = Math.round(c.height / 2) + 8;
          const ink = (y, h, r, g, b) => { let n = 0; const d = c.getContext('2d').getImageData(0, y, c.width, h).data;
            for (let i = 0; i < d.length; i += 4) n += d[i] === r && d[i + 1] === g && d[i + 2] === b; return n; };
          got([ink(0, half, 0x1a, 0x7f, 0x37), ink(half, c.height - half, 0xb9, 0xc0, 0xc9)]);
        })))"""
        small, large = await page.evaluate(count)
        assert small > 1000
        assert large > 1000


async def test_text_is_never_markup(browser: Browser) -> None:
    """Whatever a prompt or a model says, it is shown as it is and nothing of it is carried out."""
    evil = "<img src=x onerror=document.title='gone'><script>document.title='gone'</script>&amp;"
    async with serving() as served, opened(browser, served) as page:
        await ready(page)
        await canned(page, chunk(evil, source="rollback"), {"choices": []})
        await write(page, evil)
        await says(page, "#problem", "connection was cut")
        assert [(evil, "rollback")] == await tokens(page)
        assert evil == await page.locator(".asked").text_content()
        assert 0 == await page.locator("#turns img, #turns script, #spoken img").count()
        assert "bild: bild" == await page.title()


async def test_a_chat_goes_on(browser: Browser) -> None:
    """Where the model knows conversations each turn stands below the one before, and the model gets
    all of them; starting over forgets them; a completion is still to be had.
    """
    sent: list[dict[str, Any]] = []
    async with (
        serving("seed=1&f=0.3&end=0", template=TEMPLATE, generate={"max_new_tokens": 10}) as served,
        opened(browser, served) as page,
    ):
        bodies(page, sent)
        await ready(page)
        await write(page, "one")
        await done(page)
        await says(page, "#over", "Start over")
        await write(page, "two")
        await page.locator("article").nth(1).wait_for()
        await done(page)
        await page.click("#over")
        assert 0 == await page.locator("article").count()
        await page.check("#completion")
        await write(page, "three")
        await done(page)
    first, second, third = sent
    answer = second["messages"][1]
    assert [{"role": "user", "content": "one"}] == first["messages"]
    assert ("assistant", True) == (answer["role"], len(answer["content"]) > 4)
    assert {"role": "user", "content": "two"} == second["messages"][2]
    assert "three" == third["prompt"]
