"""The page of `bild serve` in a browser, for tests that use it as people do."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.serving import Served

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, Request, Route

ROLLBACKS = "seed=5&f=0.1&rho=0.1&end=0"
SLOW = "seed=5&f=0.1&end=0&ms=20"
WAIT_MS = 20_000
"""Longest wait for anything on the page; nothing waits as long where all is well."""

WATCH = """() => {
  window.seen = { guess: [], struck: [], styles: [] };
  new MutationObserver((changes) => {
    for (const change of changes) {
      const nodes = change.type === 'attributes' ? [change.target] : change.addedNodes;
      for (const node of nodes) {
        if (!(node.className in window.seen)) continue;
        window.seen[node.className].push(node.textContent);
        if (node.className === 'struck') {
          const style = getComputedStyle(node);
          window.seen.styles.push([style.textDecorationLine, node.getAttribute('aria-hidden')]);
        }
      }
    }
  }).observe(document.getElementById('turns'),
    { subtree: true, childList: true, attributes: true, attributeFilter: ['class'] });
}"""
"""Keeps what was unchecked or struck through for however short a time."""

CONTRAST = """() => {
  const part = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).map(Number);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  document.getElementById('problem').hidden = false;
  document.getElementById('problem').innerText = 'x';
  const kinds = `h1, h2, p, label, button:enabled, .legend span, .legend s, .t, textarea, summary, #figures b,
    #figures span, #problem, kbd, code`;
  const ratios = {};
  for (const e of document.querySelectorAll(kinds)) {
    if (!e.checkVisibility() || e.classList.contains('unseen')) continue;
    const a = light(getComputedStyle(e).color), b = light(ground(e)), name = `${e.tagName} ${e.id} ${e.className}`;
    ratios[name] = Math.min(ratios[name] ?? 21, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return ratios;
}"""
"""WCAG's ratio of each kind of text to what lies behind it."""


@asynccontextmanager
async def opened(browser: Browser, served: Served, **context: Any) -> AsyncIterator[Page]:
    """The page, ready to be used. Any error that its scripts do not handle fails the test."""
    wrong: list[str] = []
    async with await browser.new_context(**context) as window:
        window.set_default_timeout(WAIT_MS)
        page = await window.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda line: wrong.append(line.text) if "Content Security" in line.text else None,
        )
        await page.goto(served.address)
        yield page
        assert [] == wrong


async def write(page: Page, prompt: str = "The sea", **settings: Any) -> None:
    """Types a prompt and lets it be answered."""
    for name, value in settings.items():
        await page.fill(f"#{name}", str(value))
    await page.fill("#prompt", prompt)
    await page.press("#prompt", "Control+Enter")


async def says(page: Page, place: str, pattern: str) -> str:
    """Waits until something on the page reads so."""
    found = page.locator(place).filter(has_text=re.compile(pattern)).first
    await found.wait_for(state="visible")
    return await found.inner_text()


async def done(page: Page) -> None:
    await says(page, "#state", "^Finished")


async def ready(page: Page) -> None:
    """The server's settings are in the controls."""
    await says(page, "#pair", "writes, .* checks")


async def tokens(page: Page) -> list[tuple[str, str]]:
    """Text and source of each token, as they stand there."""
    found = await page.locator(".text .t").evaluate_all(
        "all => all.map((t) => [t.textContent, t.classList[1]])"
    )
    return [(text, source) for text, source in found]


def bodies(page: Page, into: list[dict[str, Any]]) -> None:
    """Collects the bodies that the page sends."""

    def note(request: Request) -> None:
        if request.method == "POST":
            into.append(json.loads(request.post_data or "{}"))

    page.on("request", note)


async def canned(page: Page, *chunks: dict[str, Any]) -> None:
    """The next texts come from here and not from the server."""
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)

    async def answer(route: Route) -> None:
        await route.fulfill(status=200, content_type="text/event-stream", body=body)

    await page.route("**/v1/**", answer)


def chunk(text: str, source: str = "small") -> dict[str, Any]:
    token = {
        "position": 0,
        "token": 1,
        "text": text,
        "source": source,
        "confidence": 0.5,
        "distance": None,
    }
    return {"choices": [{"index": 0, "text": text, "bild": {"tokens": [token]}}]}
