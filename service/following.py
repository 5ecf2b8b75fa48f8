"""Which version of the bundle should be served, and seeing to it: every replica follows one pointer.

Two may say so: the file `current` in the folder of bundles (`contrec bundles activate`, a trainer), and the pointer in
the store, which the admin routes move and which reaches replicas that do not share a folder. Both say since when. Each
replica looks at both twice a second, and what moved last counts: at start, while it runs, and for what was before.

    following = Following(root, "movies", bundles, guard)
    await following.first()                        # at start; never raises
    await following.follow(every=0.5)              # for as long as the service lives
    await following.activate("3f2a90c11d7e")       # raises BundleError or StoreUnavailable
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from model.bundle import BundleError, Current, Entry, after, current, list_bundles, path_of, set_current
from service.bundles import Bundles
from service.guard import Guard
from service.stores.contract import Pointer, StoreUnavailable

log = logging.getLogger(__name__)

RETRY_S: Final = 30.0
"""A version that was refused is tried again after so many seconds: its folder may have been repaired."""


class Following:
    """See the module."""

    def __init__(self, root: Path, name: str, bundles: Bundles, guard: Guard) -> None:
        self._root = root
        self._name = name
        self._bundles = bundles
        self._guard = guard
        self._turn = asyncio.Lock()
        self._pointer: Pointer | None = None  # the latest that was heard or said
        self._tried = 0.0

    async def first(self) -> None:
        """Takes up what should be served at start. What is wrong becomes the state and reason of the bundles."""
        async with self._turn:
            try:
                wanted = await self._wanted()
                if wanted is None:
                    self._bundles.without(f"no version of the bundle {self._name!r} is active")
                    return
                await self._seek(wanted.version)
            except BundleError as error:
                self._bundles.refuse(str(error))
                return
            await self._take_up(wanted.version)

    async def follow(self, every: float) -> None:
        """Looks every so many seconds, until cancelled."""
        while True:
            await asyncio.sleep(every)
            try:
                async with self._turn:
                    await self._look()
            except BundleError as error:
                self._bundles.refuse(str(error))
            except Exception:
                log.exception("the active bundle could not be followed")

    async def activate(self, version: str) -> None:
        """Serves a version and makes it the active one of every replica. Raises BundleError, and then nothing has
        changed, or StoreUnavailable, and then this replica alone has changed."""
        async with self._turn:
            await self._bundles.take_up(version)
            await self._point(version)

    async def rollback(self) -> None:
        """`activate` for the version that was active before. Raises BundleError when there is none."""
        async with self._turn:
            wanted = await self._wanted()
            if wanted is None or wanted.previous is None:
                raise BundleError(f"bundle {self._name!r} has no version to roll back to")
            await self._bundles.take_up(wanted.previous)
            await self._point(wanted.previous)

    async def list(self) -> list[Entry]:
        """Every published version, oldest first. Raises BundleError."""
        return await asyncio.to_thread(list_bundles, self._root, self._name)

    async def _look(self) -> None:
        wanted = await self._wanted()
        if wanted is None:
            return
        await self._seek(wanted.version)
        if wanted.version == self._bundles.version and self._bundles.reason is None:
            return
        if wanted.version == self._bundles.refused and time.monotonic() - self._tried < RETRY_S:
            return
        await self._take_up(wanted.version)

    async def _take_up(self, version: str) -> None:
        self._tried = time.monotonic()
        try:
            await self._bundles.take_up(version)
        except BundleError:
            return  # told and counted; what was served is served on

    async def _point(self, version: str) -> None:
        """Tells everyone. Where the store refuses, this replica stays with what it was told."""
        before = await self._wanted()
        said = after(None if before is None else Current(before.version, before.moved, before.previous), version)
        pointer = Pointer(said.version, said.previous, said.moved)
        self._pointer = pointer
        kept = await self._guard.write("write_pointer", lambda store: store.write_pointer(self._name, pointer))
        self._pointer = kept
        if kept != pointer:
            return  # somebody moved it later
        try:
            await asyncio.to_thread(set_current, self._root, self._name, said)
        except OSError as error:
            log.info("the folder of bundles is not ours to write (%s); the store's pointer says it all", error)

    async def _seek(self, version: str) -> None:
        """Raises BundleError where the folder has no such version (any more)."""
        path = path_of(self._root, self._name, version)
        if not await asyncio.to_thread(path.is_dir):
            raise BundleError(f"{path} is to be served, and is not there")

    async def _wanted(self) -> Pointer | None:
        """What counts now, whether or not it is there. Raises BundleError where the file cannot be read.

        Files are read beside the event loop: the folder may be a network's, and that may hang.
        """
        file = await asyncio.to_thread(current, self._root, self._name)
        with suppress(StoreUnavailable):
            heard = await self._guard.read("read_pointer", lambda store: store.read_pointer(self._name))
            if heard is not None and (self._pointer is None or heard.moved >= self._pointer.moved):
                self._pointer = heard
        return latest(file, self._pointer)


def latest(file: Current | None, pointer: Pointer | None) -> Pointer | None:
    """What moved last, and what counted before it did. Where both moved at once they say the same."""
    if file is None or (pointer is not None and pointer.moved >= file.moved):
        return pointer
    before = [file.previous]
    if pointer is not None and pointer.moved >= file.previous_moved:  # it counted until the file moved
        before = [pointer.version, pointer.previous, *before]
    others = (version for version in before if version not in (None, file.version))
    return Pointer(file.version, next(others, None), file.moved)
