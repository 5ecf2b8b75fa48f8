"""A real Chromium against the real process of the service: what the tests of the page share.

The bundle is the toy of the model's tests, trained for real in seconds: two worlds of twelve items, in which users walk
around a ring, so that after "Harbour part 3" the right answer is "Harbour part 4". Two titles are hostile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from model.bundle import activate, write_bundle
from model.catalogue import Catalogue, Item
from model.popular import save_popular
from model.recommender import Popular
from tests.conftest import chromium
from tests.contracts.recommender_contract import toy_catalogue
from tests.e2e.conftest import BIN, Running, free_port
from tests.model import fitted as toy

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = {
    "item-11": "</script><script>document.title='broken'</script>",
    "item-23": "<img src=x onerror=\"document.title='broken'\">",
}
DESK = {"width": 1440, "height": 900}
PHONE = {"width": 360, "height": 740}


def write_toy_bundle(root: Path) -> None:
    """The toy recommender with hostile titles, as the active bundle `toy`; its head is mixed in, so that it walks."""
    recommender = toy.fitted().recommender(0.5)
    recommender.catalogue = Catalogue(
        Item(item.item_id, HOSTILE.get(item.item_id, item.title), item.categories, item.text)
        for item in toy_catalogue()
    )
    path = write_bundle(
        root,
        "toy",
        kind="continuous",
        recipe="contrec/tiny",
        data_fingerprint="toy",
        metrics={},
        config={},
        fill=recommender.save,
    )
    activate(root, "toy", path.name)


def write_popular_bundle(root: Path, titles: list[str]) -> None:
    """A bundle that only counts, as the active bundle `counts`: served within a second, since it needs no torch."""
    recommender = Popular(
        Catalogue(Item(f"i{n}", title) for n, title in enumerate(titles)), np.arange(len(titles), 0, -1, dtype=np.int64)
    )

    def fill(folder: Path) -> None:
        save_popular(recommender, folder)

    path = write_bundle(
        root, "counts", kind="popular", recipe="none", data_fingerprint="counts", metrics={}, config={}, fill=fill
    )
    activate(root, "counts", path.name)


@dataclass
class Tab:
    """A page in its own profile, with everything that went wrong in it."""

    page: Page
    context: BrowserContext
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        """The text of the one element, as a person sees it."""
        return self.page.locator(selector).inner_text()

    def titles(self) -> list[str]:
        """The titles of the recommendations, best first."""
        return self.page.locator("#list .title").all_inner_texts()

    def answered(self, words: str) -> None:
        """Waits until the status says so, and nothing is under way any more."""
        self.page.locator("#status", has_text=words).wait_for()
        self.page.locator("#recommendations:not(.busy)").wait_for()

    def add(self, title: str) -> None:
        """Searches for an item and clicks it."""
        self.page.fill("#search", title)
        self.pick(title, "#results")
        self.page.fill("#search", "")

    def pick(self, title: str, among: str = "#list") -> None:
        """Clicks the item of a list that has exactly this title."""
        exactly = self.page.get_by_text(title, exact=True)
        self.page.locator(f"{among} .pickable").filter(has=exactly).click()

    def violations(self) -> list[str]:
        """What axe has to say of the page as it stands."""
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {node['html']} {node['failureSummary']}" for one in found for node in one["nodes"]]


@dataclass
class Served:
    """A service that runs as a process of its own, and where."""

    address: str
    running: Running

    def ready(self) -> Served:
        """Waits until it is."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert self.running.process.poll() is None, self.running.output
            try:
                if httpx.get(f"{self.address}/readyz", trust_env=False).status_code == httpx.codes.OK:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        pytest.fail(f"not ready:\n{self.running.output}")


@pytest.fixture(scope="module")
def serve(start: Callable[..., Running], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Served]:
    """Starts `python -m service` and returns once it is ready."""

    def run(port: int = 0, **settings: str) -> Served:
        port = port or free_port()
        folder = tmp_path_factory.mktemp("page")
        running = start([str(BIN / "python"), "-m", "service"], folder, CONTREC_PORT=str(port), **settings)
        return Served(f"http://127.0.0.1:{port}", running).ready()

    return run


@pytest.fixture(scope="module")
def toy_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "bundles"
    write_toy_bundle(root)
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """Opens addresses, each in an empty profile. given: of Playwright's new_context."""
    tabs: list[Tab] = []

    def run(address: str, **given: Any) -> Tab:
        context = browser.new_context(**({"viewport": DESK, "reduced_motion": "reduce"} | given))
        context.set_default_timeout(20_000)
        tab = Tab(context.new_page(), context)
        tabs.append(tab)
        tab.page.on("console", lambda said: tab.errors.append(said.text) if said.type in ("error", "warning") else None)
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.page.on("request", lambda request: note_stranger(tab, address, request.url))
        tab.page.goto(address)
        return tab

    yield run
    for tab in tabs:
        tab.context.close()


def note_stranger(tab: Tab, address: str, url: str) -> None:
    if not url.startswith(address):
        tab.strangers.append(url)
