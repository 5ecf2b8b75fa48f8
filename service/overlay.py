"""What was said of items since the bundle was made: new ones, changed ones, and those that are withdrawn.

The store holds it under one version that grows with every write. Each replica asks for what is newer than what it has,
several times a second, and lays it over the bundle that is served: `Served` is replaced by one that knows, as a swap
of bundles would, so a request sees one moment of the catalogue. A bundle that is taken up later is dressed with all of
it before its first request. Knows no HTTP.

    overlay = Overlay(guard, bundles, metrics)
    await overlay.refresh()                                # once, before the first bundle
    version = await overlay.write([StoredItem("n1", "Solaris")])     # raises StoreUnavailable
    await overlay.follow(every=0.25)                       # for as long as the service lives
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import repeat

from service.bundles import Bundles, Served
from service.guard import Guard
from service.metrics import Metrics
from service.stores.contract import StoredItem, StoreUnavailable

log = logging.getLogger(__name__)

_GIVE_UP = 4  # items that cannot be placed, before the rest is not looked at one by one


class Overlay:
    """See the module. items: by id, as they are now, withdrawn ones too. known: whether the store was ever heard.
    unplaced: ids that the bundle that is served cannot place, whatever is wrong with them."""

    def __init__(self, guard: Guard, bundles: Bundles, metrics: Metrics) -> None:
        self._guard = guard
        self._bundles = bundles
        self._metrics = metrics
        self._turn = asyncio.Lock()
        self.items: dict[str, StoredItem] = {}
        self.withdrawn: frozenset[str] = frozenset()
        self.unplaced: frozenset[str] = frozenset()
        self.version = 0
        self.known = False
        self._said_at: dict[str, int] = {}
        bundles.dress = self.dress

    async def write(self, items: Sequence[StoredItem]) -> int:
        """Keeps what is said of items; this replica knows it when this returns. Raises StoreUnavailable."""
        version = await self._guard.write("write_items", lambda store: store.write_items(items))
        try:
            await self.refresh()
        except StoreUnavailable:
            log.warning("items were kept, and are taken up as soon as the store can be read")
        return version

    def newest(self, item_ids: Iterable[str]) -> int:
        """The catalogue version at which one of these was last said of; 0 where none was."""
        return max(map(self._said_at.get, item_ids, repeat(0)), default=0) if self._said_at else 0

    async def refresh(self) -> None:
        """Takes up what is new in the store. Raises StoreUnavailable."""
        async with self._turn:
            version, changes = await self._guard.read("read_items", lambda store: store.read_items(self.version))
            if version < self.version:  # the store was emptied, or is another one
                log.warning("the catalogue's version fell from %d to %d: it is read anew", self.version, version)
                version, changes = await self._guard.read("read_items", lambda store: store.read_items(0))
            self.version = version
            if changes:
                self.items.update((item.item_id, item) for item in changes)
                self._said_at.update((item.item_id, version) for item in changes)  # or before, which does no harm
                self.withdrawn = frozenset(item_id for item_id, item in self.items.items() if item.withdrawn)
                self._metrics.catalogue_version.set(version)
                await self._lay_over(changes)
            self.known = True

    async def follow(self, every: float) -> None:
        """Refreshes every so many seconds until cancelled."""
        while True:
            await asyncio.sleep(every)
            try:
                await self.refresh()
            except StoreUnavailable:
                continue  # counted and told by the guard; the next turn is the next try
            except Exception:
                log.exception("the catalogue could not be followed")

    async def dress(self, served: Served) -> Served:
        """A bundle that nobody is served with yet, with everything that was said of items, and ready for what will be:
        a text encoder takes seconds to load, and the first new item has one."""
        await asyncio.to_thread(_expect, served)
        while True:
            version = self.version
            if self.items:
                dressed, unplaced = await asyncio.to_thread(_laid, served, list(self.items.values()), version)
            else:
                dressed, unplaced = served, frozenset()
            if version == self.version:  # else something was said meanwhile
                self.unplaced = unplaced
                return dressed

    async def _lay_over(self, changes: Sequence[StoredItem]) -> None:
        while (served := self._bundles.served) is not None:
            dressed, unplaced = await asyncio.to_thread(_laid, served, changes, self.version)
            if self._bundles.served is served:
                self._bundles.served = dressed
                self.unplaced = self.unplaced.difference(item.item_id for item in changes) | unplaced
                return
            # Another bundle was taken up meanwhile. It may have been dressed before the changes: lay them over it too.


def _expect(served: Served) -> None:
    try:
        served.recommender.expect_items()
    except ValueError as error:
        log.warning("bundle %s cannot place new items: %s", served.label, error)


def _laid(served: Served, changes: Sequence[StoredItem], version: int) -> tuple[Served, frozenset[str]]:
    unplaced: set[str] = set()
    return _laid_over(served, changes, version, unplaced), frozenset(unplaced)


def _laid_over(served: Served, changes: Sequence[StoredItem], version: int, unplaced: set[str]) -> Served:
    """The bundle with these changes, but for items that it cannot place: their ids join `unplaced`, found by halves."""
    try:
        return served.with_items(changes, version)
    except Exception as error:
        if len(unplaced) >= _GIVE_UP:  # it is not about single items: a text encoder that cannot be loaded, say
            unplaced.update(item.item_id for item in changes if not item.withdrawn)
            return served.with_items([item for item in changes if item.withdrawn], version)
        if len(changes) > 1:
            middle = len(changes) // 2
            first = _laid_over(served, changes[:middle], version, unplaced)
            return _laid_over(first, changes[middle:], version, unplaced)
        unplaced.add(changes[0].item_id)
        named = ValueError(f"item {changes[0].item_id!r}")  # of an exception the text is logged on demand alone
        named.__cause__ = error
        log.error("an item cannot be placed by bundle %s; it waits for another one", served.label, exc_info=named)
        return replace(served, catalogue_version=version)
