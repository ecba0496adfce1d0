"""A server over toys in this process, for tests that ask it over real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from bild_dist.app import inproc
from bild_dist.config import Config, OrchestratorConfig, WorkerConfig
from bild_dist.model.toy import tokenizer_json
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.http.auth import Keys
from bild_dist.orchestrator.http.house import House
from bild_dist.orchestrator.http.server import Server, listen
from bild_dist.orchestrator.keeping import Keeping
from bild_dist.orchestrator.text import Text
from bild_dist.tables import HttpConfig
from bild_dist.types import Role

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@dataclass
class Served:
    """A server at work, and a client of it."""

    house: House
    server: Server
    client: httpx.AsyncClient
    said: list[str]

    @property
    def decoder(self) -> Decoder:
        return self.house.keeping.decoder

    @property
    def address(self) -> str:
        return self.server.address

    async def post(self, body: dict[str, Any], path: str = "/v1/completions") -> httpx.Response:
        return await self.client.post(path, json=body)

    async def chunks(
        self, body: dict[str, Any], path: str = "/v1/completions"
    ) -> list[dict[str, Any]]:
        """All of a stream, which must end as streams do."""
        got: list[dict[str, Any]] = []
        async with self.client.stream("POST", path, json={**body, "stream": True}) as answer:
            assert 200 == answer.status_code, await answer.aread()
            lines = [line async for line in answer.aiter_lines() if line]
        assert all(line.startswith("data: ") for line in lines)
        assert "data: [DONE]" == lines[-1]
        got += [json.loads(line[len("data: ") :]) for line in lines[:-1]]
        return got

    async def drained(self) -> None:
        """Returns when no worker holds a slot and no text a place; a leak would run into the test's
        time limit.
        """
        for role in Role:
            while await self.decoder.workers[role].open_slots():
                pass
        await self.house.admission.idle()
        assert 0 == self.house.admission.texts


@asynccontextmanager
async def serving(
    spec: str = "seed=1&f=0.3&end=0.01", *, keys: tuple[str, ...] = (), template: str | None = None,
    generate: dict[str, Any] | None = None, **http: Any,
) -> AsyncIterator[Served]:  # fmt: skip
    """A pair of toys behind a server. `http` are fields of HttpConfig."""
    table = HttpConfig(port=0, **http)
    config = Config(
        small=WorkerConfig(model=f"toy:small?{spec}"),
        large=WorkerConfig(model=f"toy:large?{spec}"),
        orchestrator=OrchestratorConfig(transport="inproc", concurrency=table.concurrency),
        http=table,
    ).overlaid(generate=generate if generate is not None else {})

    @asynccontextmanager
    async def opening() -> AsyncIterator[Decoder]:
        async with inproc(config) as decoder:
            if template is not None:
                chat = json.dumps({"chat_template": template}).encode()
                files = {"tokenizer.json": tokenizer_json(), "chat.json": chat}
                decoder._text = Text.from_files(files)
            yield decoder

    said: list[str] = []
    kept = Keeping(opening, said.append)
    async with asyncio.TaskGroup() as group:
        keeper = group.create_task(kept.run())
        await kept.up()
        server = Server(House(table, kept, Keys(list(keys))), listen(table))
        async with (
            server,
            httpx.AsyncClient(base_url=server.address, trust_env=False, timeout=30) as client,
        ):
            yield Served(server._house, server, client, said)
        keeper.cancel()
