"""The page of `bild serve` for all hands and eyes, on a phone, in the dark, and when something goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.page import (
    CONTRAST,
    ROLLBACKS,
    SLOW,
    canned,
    chunk,
    done,
    opened,
    ready,
    says,
    tokens,
    write,
)
from tests.serving import serving

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]


async def test_the_keyboard_is_enough(browser: Browser) -> None:
    """From the first Tab on: type, move a threshold, write, read the tokens, go through the passes."""
    async with serving(ROLLBACKS) as served, opened(browser, served) as page:
        await ready(page)
        keys = page.keyboard
        await keys.press("Tab")
        assert "prompt" == await page.evaluate("document.activeElement.id")
        await keys.type("The sea")
        visited = []
        for _ in range(12):
            await keys.press("Tab")
            visited.append(
                await page.evaluate("document.activeElement.id || document.activeElement.tagName")
            )
            if visited[-1] == "alpha_fb-slide":
                await keys.press("ArrowRight")
        assert {"write", "mode", "alpha_fb", "alpha_rb", "window", "max_tokens", "SUMMARY"} <= set(
            visited
        )
        assert "0.61" == await page.input_value("#alpha_fb")
        await page.focus("#write")
        await keys.press("Enter")
        await done(page)
        while not await page.evaluate("document.activeElement.classList.contains('text')"):
            if "lanes" == await page.evaluate("document.activeElement.id"):
                await keys.press("ArrowRight")
                await says(page, "#says", "^The (small|large) model .* ms")
            await keys.press("Tab")
        await keys.press("ArrowRight")
        first = await says(page, "#says", "token 1: .* Confidence")
        await keys.press("End")
        assert first != await says(page, "#says", "token 128: ")
        assert 1 == await page.locator(".t.on").count()


async def test_a_phone_shows_all_of_it(browser: Browser) -> None:
    """At 320 px nothing scrolls sideways: neither before, nor while a text is written, nor with a
    word without end or an error; and the answer comes into sight with its own button to stop.
    """
    phone = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
    wide = "document.documentElement.scrollWidth"
    async with serving(SLOW) as served, opened(browser, served, **phone) as page:
        await ready(page)
        assert 320 == await page.evaluate(wide)
        await write(page, "x" * 500, max_tokens=1000)
        await page.locator(".text .t").nth(12).wait_for()
        assert 320 == await page.evaluate(wide)
        await page.tap("#stop-here")
        await says(page, "#state", "^Stopped")
        await page.locator(".text .t").nth(1).tap()
        await says(page, "#says", "token 2")
        await page.tap("#more summary")
        await page.fill("#seed", "1e30")
        await page.tap("#write")
        await says(page, "#problem", "seed = ")
        assert 320 == await page.evaluate(wide)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_words_can_be_read(browser: Browser, scheme: str) -> None:
    """Every kind of text has a contrast of 4.5 to its ground or more, in light and in dark."""
    async with (
        serving(ROLLBACKS) as served,
        opened(browser, served, color_scheme=scheme, bypass_csp=True) as page,
    ):
        await write(page)
        await done(page)
        ratios = await page.evaluate(CONTRAST)
        assert len(ratios) > 25
        assert {} == {name: ratio for name, ratio in ratios.items() if ratio < 4.5}
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ("rgb(255, 255, 255)" == ground) == (scheme == "light")


async def test_who_wants_no_motion_gets_none(browser: Browser) -> None:
    """What was taken back disappears without fading."""
    async with (
        serving(ROLLBACKS) as served,
        opened(browser, served, reduced_motion="reduce") as page,
    ):
        await write(page)
        await done(page)
        moving = """() => {
          const span = document.createElement('span');
          span.className = 'struck';
          document.querySelector('.text').append(span);
          return getComputedStyle(span).animationName;
        }"""
        assert "none" == await page.evaluate(moving)


async def test_a_key_is_asked_for_where_one_is_needed(browser: Browser) -> None:
    """The field appears and has the focus; a wrong key is told from a missing one; the right one
    writes.
    """
    async with serving(keys=("correct-horse-battery",)) as served, opened(browser, served) as page:
        await says(page, "#problem", "wants an API key")
        assert "key" == await page.evaluate("document.activeElement.id")
        await page.keyboard.type("wrong-horse-battery")
        await page.keyboard.press("Tab")
        await says(page, "#problem", "does not know this API key")
        await page.fill("#key", "correct-horse-battery")
        await write(page)
        await done(page)
        assert await page.locator("#problem").is_hidden()


async def test_refusals_are_said_in_plain_words(browser: Browser) -> None:
    """A full server, one that ends, one that is gone, a value it does not take: what happened, when
    to try again, and the control that is to blame. After each the page can write again.
    """
    async with (
        serving("seed=1&end=0", concurrency=1, queue=0) as served,
        opened(browser, served) as page,
    ):
        await ready(page)
        served.house.admission.texts += 1
        await write(page)
        await says(page, "#problem", "The server is busy.*Try again in [0-9]+ second")
        served.house.admission.texts -= 1
        served.house.admission.draining = True
        await write(page)
        await says(page, "#problem", "cannot write at the moment.*shutting down")
        served.house.admission.draining = False
        await write(page, max_tokens=8)
        await done(page)
        await page.locator("#more summary").click()
        await write(page, seed="1e30")
        await says(page, "#problem", "cannot do that. seed = ")
        assert "seed" == await page.evaluate("document.activeElement.id")
        assert "true" == await page.get_attribute("#seed", "aria-invalid")
        await page.route("**/v1/**", lambda route: route.abort())
        await write(page, seed=1)
        await says(page, "#problem", "cannot be reached")
        await page.unroute_all()
        await write(page)
        await done(page)


async def test_a_text_that_breaks_off_stays(browser: Browser) -> None:
    """An error in the middle of a stream, or a cut connection: what is there stays, and is said."""
    error = {
        "error": {
            "message": "a model is not available",
            "type": "server_error",
            "param": None,
            "code": None,
        }
    }
    async with serving() as served, opened(browser, served) as page:
        await ready(page)
        await canned(page, chunk("half"), error)
        await write(page)
        await says(page, "#problem", "cannot write at the moment. A model is not available")
        assert [("half", "small")] == await tokens(page)
        await says(page, "#state", "^Broken off after 1 token")
        await page.unroute_all()
        await canned(page, chunk("cut"))
        await write(page)
        await says(page, "#problem", "connection was cut")
        assert [("cut", "small")] == await tokens(page)


async def test_a_page_that_came_too_early_gets_its_models(browser: Browser) -> None:
    """While models load, or are started again, the page says so; it is ready by itself once they are."""
    async with serving() as served:
        kept = served.house.keeping
        decoder, kept._decoder = kept._decoder, None
        async with opened(browser, served) as page:
            await says(page, "#problem", "cannot write at the moment")
            await says(page, "#health", "not available: the small and the large model")
            kept._decoder = decoder
            # It asks every few seconds, and when somebody looks at it again.
            await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            await ready(page)
            await says(page, "#health", "both models are up")
            assert await page.locator("#problem").is_hidden()
            assert "0.6" == await page.input_value("#alpha_fb")
