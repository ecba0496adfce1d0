"""What the server gives to the page at `/`: its files, under a strict policy, and the pair's settings."""

from __future__ import annotations

import re
from importlib.resources import files

from tests.serving import TEMPLATE, serving

KEY = "correct-horse-battery"


async def test_the_page_is_whole_and_asks_for_nothing_else() -> None:
    """All that its files name is there, of the right type, and on this server; no key is needed to
    see the page that asks for keys.
    """
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    async with serving(keys=(KEY,)) as served:
        page = await served.client.get("/")
        assert "text/html; charset=utf-8" == page.headers["content-type"]
        wanted = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        for name in wanted:
            answer = await served.client.get(f"/{name}")
            assert 200 == answer.status_code, name
            assert answer.headers["content-type"].startswith(kinds[name.rpartition(".")[2]]), name
            wanted += [f"page/{other}" for other in re.findall(r' from "\./([^"]+)"', answer.text)]
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", answer.text)
        own = {
            f"page/{file.name}"
            for file in files("bild_dist.orchestrator.http").joinpath("page").iterdir()
        }
        assert own | {"page/colours.css"} == {*wanted, "page/index.html"}
        assert not re.search(r"https?://", page.text)


async def test_the_page_may_do_next_to_nothing() -> None:
    """Its policy allows own files and requests to this server: nothing inline, no markup from text,
    no frames; every control of the form has a name for those who do not see it.
    """
    async with serving() as served:
        page = await served.client.get("/")
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in page.headers["content-security-policy"].split(";")
    )
    assert "'none'" == policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"]
    assert "'self'" == policy["script-src"] == policy["style-src"] == policy["connect-src"]
    assert "'script'" == policy["require-trusted-types-for"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert not re.search(r"<style|style=|\bon[a-z]+=|javascript:", page.text)
    labelled = set(re.findall(r'<label for="([^"]+)"', page.text))
    for control in re.findall(r"<(?:input|select|textarea)[^>]*>", page.text):
        (name,) = re.findall(r' id="([^"]+)"', control)
        assert name in labelled or "aria-label=" in control or 'type="radio"' in control, name


async def test_settings_are_what_a_request_gets_that_says_nothing() -> None:
    """Names of the pair, whether it knows conversations, and its options; infinity is null."""
    generate = {"alpha_rb": float("inf"), "window": 7, "mode": "exact", "schedule": "paper"}
    async with serving("seed=1&end=0", generate=generate, name="twins") as served:
        told = (await served.client.get("/page/settings")).json()
    assert ("twins", False) == (told["name"], told["chat"])
    assert "toy:small?seed=1&end=0" == told["small"]
    assert "toy:large?seed=1&end=0" == told["large"]
    options = told["options"]
    assert ("exact", None, 7, "paper") == tuple(
        options[name] for name in ("mode", "alpha_rb", "window", "schedule")
    )
    assert (0.6, 128, 0, 0) == tuple(
        options[name] for name in ("alpha_fb", "max_tokens", "temperature", "seed")
    )
    async with serving(template=TEMPLATE) as served:
        assert (await served.client.get("/page/settings")).json()["chat"]


async def test_settings_are_for_those_who_may_ask() -> None:
    """With keys they need one, like the API; while no models are there they are a 503 that says when
    to come again.
    """
    async with serving(keys=(KEY,)) as served:
        assert 401 == (await served.client.get("/page/settings")).status_code
        headers = {"Authorization": f"Bearer {KEY}"}
        assert 200 == (await served.client.get("/page/settings", headers=headers)).status_code
        kept = served.house.keeping
        decoder, kept._decoder = kept._decoder, None
        answer = await served.client.get("/page/settings", headers=headers)
        kept._decoder = decoder
    assert (503, "worker_unavailable") == (answer.status_code, answer.json()["error"]["code"])
    assert "2" == answer.headers["retry-after"]
