"""A small real recommender whose right answer is visible by eye, and the service around it.

Items lie on a circle in order of their number; after item n it looks at n + 1.25, so that the order is n + 1, n + 2, n,
n + 3, n - 1 and so on outward, without ties.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from model.catalogue import Catalogue, Item, Mask, Rows
from model.recommender import Dials, Floats, Recommender, UserTokens, best
from service.app import create_app
from service.core import Service
from service.settings import Settings

ITEMS = 40
NAME = "circle"


def circle_catalogue(items: int = ITEMS) -> Catalogue:
    return Catalogue(
        Item(item_id=f"i{n}", title=f"Item {n}", categories=("even" if n % 2 == 0 else "odd", f"tens-{n // 10}"))
        for n in range(items)
    )


class Circle(Recommender):
    """Counts its calls; raises in the steps named in `broken`."""

    kind = "circle"

    def __init__(self, items: int = ITEMS) -> None:
        super().__init__(circle_catalogue(items))
        self.size = items
        angles = 2 * np.pi * np.arange(items) / items
        self.vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        self.counts = np.arange(items, 0, -1).astype(np.float32)  # i0 is the most popular
        self.encoded: list[int] = []  # the length of each history that the trunk read
        self.broken: set[str] = set()

    def _maybe_break(self, step: str) -> None:
        if step in self.broken:
            raise RuntimeError(f"{step} is broken")

    def encode(self, histories: Sequence[Rows]) -> list[UserTokens]:
        self._maybe_break("encode")
        self.encoded += [len(history) for history in histories]
        return [UserTokens(condition=self.ahead(history), profile=np.zeros(0, np.float32)) for history in histories]

    def ahead(self, history: Rows) -> Floats:
        """Where it looks after a history; the middle, equally far from everything, where there is none."""
        if len(history) == 0:
            return np.zeros(2, dtype=np.float32)
        cos, sin = self.vectors[history[-1]]
        angle = np.arctan2(sin, cos) + 2 * np.pi * 1.25 / self.size
        return np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)

    def generate(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[Floats]:
        self._maybe_break("generate")
        noise = [np.random.default_rng(dial.seed).normal(size=2).astype(np.float32) * dial.explore for dial in dials]
        return [token.condition + one for token, one in zip(tokens, noise, strict=True)]

    def retrieve(self, taste: Any, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        self._maybe_break("retrieve")
        return best(self.score(taste), eligible, k)

    def score(self, taste: Any) -> Floats:
        scores: Floats = self.vectors @ taste
        return scores

    def with_items(self, items: Sequence[Item]) -> Circle:
        """A new item lies where the number in its text says ("7.5": between i7 and i8), else in the middle."""
        grown = copy.copy(self)
        grown.catalogue = self.catalogue.with_items(items)
        added = [grown.catalogue[row] for row in range(len(self.catalogue), len(grown.catalogue))]
        angles = [2 * np.pi * float(item.text) / ITEMS if item.text else np.nan for item in added]
        placed = np.array([[np.cos(angle), np.sin(angle)] for angle in angles], dtype=np.float32).reshape(-1, 2)
        grown.vectors = np.concatenate([self.vectors, np.nan_to_num(placed)])
        grown.counts = np.concatenate([self.counts, np.zeros(len(added), dtype=np.float32)])
        return grown

    def unit_vectors(self, rows: Rows) -> Floats:
        return self.vectors[rows]

    def neighbours(self, rows: Rows, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        if len(rows) == 0:
            return best(self.counts, eligible, k)
        self._maybe_break("neighbours")
        return best(self.vectors @ self.vectors[rows].mean(axis=0), eligible, k)


@dataclass
class Running:
    """A service with its lifespan running, and a client that speaks HTTP to it in this process."""

    app: FastAPI
    client: httpx.AsyncClient
    service: Service

    async def recommend(self, **body: Any) -> dict[str, Any]:
        answer = await self.client.post("/recommend", json=body)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    async def ids(self, **body: Any) -> list[str]:
        return [item["item_id"] for item in (await self.recommend(**body))["items"]]

    async def tell(self, user: str, *items: str, start: int = 0) -> None:
        """The user met the items, in this order."""
        await self.tell_with({}, user, *items, start=start)

    async def tell_with(self, headers: dict[str, str], user: str, *items: str, start: int = 0) -> None:
        """The same, with a key."""
        events = [
            {"event_id": f"{user}-{start + n}", "user_id": user, "item_id": item, "time": start + n}
            for n, item in enumerate(items)
        ]
        answer = await self.client.post("/events", json={"events": events}, headers=headers)
        assert answer.status_code == 200, answer.text

    async def settle(self) -> None:
        """Waits for what the service does beside the requests: loading, keeping tokens."""
        while self.service._background:
            await asyncio.wait(set(self.service._background))
            await asyncio.sleep(0)  # a task leaves the set in the turn after its end


def quiet_settings(**given: Any) -> Settings:
    """Settings that touch neither the disk nor a port."""
    return Settings(**({"store": "sqlite://:memory:", "metrics_port": 0, "bundles": "no-such-folder"} | given))


@asynccontextmanager
async def running(recommender: Recommender | None = None, **settings: Any) -> AsyncIterator[Running]:
    """The service with this recommender, or with what the settings say."""
    app = create_app(quiet_settings(**settings))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            run = Running(app, client, app.state.service)
            await run.settle()
            if recommender is not None:
                await run.service.bundles.adopt(recommender, NAME, "1")
            yield run


NEW = {"title": "A new thing", "categories": ["odd", "fresh"], "text": "4.25"}  # where the circle looks after i3


async def put(run: Running, item_id: str, **body: Any) -> dict[str, Any]:
    """Says what an item is."""
    answer = await run.client.put(f"/items/{item_id}", json=body)
    assert answer.status_code == 200, answer.text
    written: dict[str, Any] = answer.json()
    return written


async def withdraw(run: Running, item_id: str) -> None:
    """Takes an item out of every answer."""
    assert (await run.client.delete(f"/items/{item_id}")).status_code == 200


async def listed(run: Running, path: str) -> list[str]:
    """The items of an answer to a GET."""
    answer = await run.client.get(path)
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]
