"""Which version of the bundle should be served, and seeing to it: every replica follows one pointer.

Two may say so: the file `current` in the folder of bundles (`contrec bundles activate`, a trainer), and the pointer in
the store, which the admin routes move and which reaches replicas that do not share a folder. Each replica looks at both
twice a second and follows whichever moved last. At start the pointer counts, unless the file names a third version: one
that is neither the pointer's nor the one before it was activated while nobody looked.

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

from model.bundle import BundleError, Entry, activate, active, list_bundles
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
        self._file: str | None = None  # what each of the two said when it was last heard
        self._pointer: str | None = None
        self._wanted: str | None = None
        self._tried = 0.0

    async def first(self) -> None:
        """Takes up what should be served at start. What is wrong becomes the state and reason of the bundles."""
        async with self._turn:
            try:
                self._file = self._named_by_file()
            except BundleError as error:
                self._bundles.refuse(str(error))
                return
            pointer = await self._heard()
            self._wanted = self._file
            if pointer is not None:
                self._pointer = pointer.version
                if self._file in (None, pointer.previous):
                    self._wanted = pointer.version
            if self._wanted is None:
                self._bundles.without(f"no version of the bundle {self._name!r} is active")
                return
            await self._take_up(self._wanted)

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
            pointer = await self._heard()
            version = self._bundles.previous_version if pointer is None else pointer.previous
            if version is None:
                raise BundleError(f"bundle {self._name!r} has no version to roll back to")
            await self._bundles.take_up(version)
            await self._point(version)

    async def list(self) -> list[Entry]:
        """Every published version, oldest first. Raises BundleError."""
        return await asyncio.to_thread(list_bundles, self._root, self._name)

    async def _look(self) -> None:
        file, pointer = self._named_by_file(), await self._heard()
        if file != self._file:
            self._file = self._wanted = file
        elif pointer is not None and pointer.version != self._pointer:
            self._wanted = pointer.version
        if pointer is not None:
            self._pointer = pointer.version
        if self._wanted is None or self._wanted == self._bundles.version:
            return
        if self._wanted == self._bundles.refused and time.monotonic() - self._tried < RETRY_S:
            return
        await self._take_up(self._wanted)

    async def _take_up(self, version: str) -> None:
        self._tried = time.monotonic()
        try:
            await self._bundles.take_up(version)
        except BundleError:
            return  # told and counted; what was served is served on

    async def _point(self, version: str) -> None:
        """Tells everyone. The pointer's first move also says what was before it."""
        before = self._bundles.previous_version
        self._wanted = version
        if before is not None and await self._heard() is None:
            with suppress(StoreUnavailable):
                await self._guard.write("write_pointer", lambda store: store.write_pointer(self._name, before))
        await self._guard.write("write_pointer", lambda store: store.write_pointer(self._name, version))
        self._pointer = version
        try:
            await asyncio.to_thread(activate, self._root, self._name, version)
            self._file = version
        except OSError as error:
            log.info("the folder of bundles is not ours to write (%s); the store's pointer says it all", error)

    def _named_by_file(self) -> str | None:
        path = active(self._root, self._name)
        return None if path is None else path.name

    async def _heard(self) -> Pointer | None:
        try:
            return await self._guard.read("read_pointer", lambda store: store.read_pointer(self._name))
        except StoreUnavailable:
            return None
