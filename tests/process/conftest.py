"""A browser for the tests of the page, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from playwright.async_api import Browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """An installed Chromium without a screen. Tests that need it are skipped where it is missing."""
    api = pytest.importorskip("playwright.async_api", reason="needs the package playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs a browser: install chromium")
    # The sandbox wants rights that containers do not give; all pages here are our own.
    arguments = ["--no-sandbox", "--no-proxy-server", "--disable-dev-shm-usage"]
    async with api.async_playwright() as driver:
        launched = await driver.chromium.launch(executable_path=path, args=arguments)
        yield launched
        await launched.close()
