"""The page when something is not as it should be, in a real Chromium against real processes: no service, no bundle, no
items, no key, too many requests, a value out of bounds. Each is said in words, and what heals is taken up again."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Route

from tests.e2e.browser import Served, Tab, browser, open_tab, serve, write_popular_bundle

__all__ = ["browser", "open_tab", "serve"]  # fixtures

pytestmark = pytest.mark.browser

Open = Callable[..., Tab]
Serve = Callable[..., Served]
UI = Path(__file__).resolve().parents[2] / "service" / "ui"
TITLES = [f"Film {n}" for n in range(30)]


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings that serve thirty films by count."""
    root = tmp_path_factory.mktemp("counts") / "bundles"
    write_popular_bundle(root, TITLES)
    return {"CONTREC_BUNDLES": str(root), "CONTREC_BUNDLE": "counts"}


def notice(tab: Tab, words: str) -> None:
    tab.page.locator("#notice-text", has_text=words).wait_for()


def test_a_service_that_goes_away_and_comes_back(serve: Serve, counts: dict[str, str], open_tab: Open) -> None:
    served = serve(**counts)
    tab = open_tab(served.address)
    tab.answered("10 recommendations")
    assert served.running.interrupt() == 0
    tab.pick("Film 0")
    notice(tab, "The service does not answer. Asking again in 3 s.")
    assert tab.text("#status") == "No answer. Below is the last one."
    assert tab.violations() == []
    serve(int(served.address.rpartition(":")[2]), **counts)
    tab.answered("10 recommendations for this history")
    assert tab.page.locator("#notice").is_hidden()
    assert "Film 0" not in tab.titles(), "what was clicked meanwhile is not lost"


def test_an_answer_from_before_the_bundle_was_loaded_is_asked_again(
    serve: Serve, counts: dict[str, str], open_tab: Open
) -> None:
    """As a service that has just started again gives one, which the test above meets only at times."""
    tab = open_tab(serve(**counts).address)
    tab.answered("10 recommendations")

    def early(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | {"items": [], "bundle": None})

    tab.page.route("**/recommend", early, times=1)
    tab.pick("Film 0")
    tab.answered("Nothing to recommend")
    tab.answered("10 recommendations for this history")


def test_a_value_out_of_bounds_is_named_and_marked(serve: Serve, counts: dict[str, str], open_tab: Open) -> None:
    tab = open_tab(serve(**counts).address)
    tab.answered("10 recommendations")
    tab.page.fill("#k", "500")
    notice(tab, "k: ")
    assert tab.page.get_attribute("#k", "aria-invalid") == "true"
    tab.page.fill("#k", "5")
    tab.answered("5 recommendations")
    assert tab.page.get_attribute("#k", "aria-invalid") is None
    assert tab.page.locator("#notice").is_hidden()


def test_too_many_requests_are_asked_again_later(serve: Serve, counts: dict[str, str], open_tab: Open) -> None:
    address = serve(**counts, CONTREC_RATE_LIMIT="1", CONTREC_RATE_BURST="25").address
    tab = open_tab(address)
    tab.answered("10 recommendations")
    while httpx.get(f"{address}/page/map", trust_env=False).status_code == httpx.codes.OK:
        pass
    tab.pick("Film 0")
    notice(tab, "too many requests")
    notice(tab, "Asking again in")
    tab.answered("10 recommendations for this history")
    tab.page.locator("#notice").wait_for(state="hidden")


def test_a_walk_that_the_model_cannot_answer_is_asked_again_and_the_list_stands(
    serve: Serve, counts: dict[str, str], open_tab: Open
) -> None:
    tab = open_tab(serve(**counts).address)
    tab.answered("10 recommendations")

    def refused(route: Route) -> None:
        error = {"code": "model_unavailable", "message": "the model did not answer"}
        route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": error})

    tab.page.route("**/page/trace", refused, times=1)
    tab.pick("Film 0")
    notice(tab, "The model does not answer. Asking again in 1 s.")
    tab.answered("10 recommendations for this history")
    tab.page.locator("#notice").wait_for(state="hidden")


def test_without_a_bundle(serve: Serve, open_tab: Open) -> None:
    address = serve(CONTREC_BUNDLES="nowhere").address
    events = [{"event_id": str(n), "user_id": f"u{n}", "item_id": "<b>i</b>"} for n in range(3)]
    assert httpx.post(f"{address}/events", json={"events": events}, trust_env=False).status_code == httpx.codes.OK
    tab = open_tab(address)
    tab.answered("1 recommendation for anybody")
    assert tab.titles() == ["<b>i</b>"]
    assert tab.text("#bundle") == "no bundle"
    assert "No bundle is served: no version of the bundle 'contrec' is active." in tab.text("#list-empty")
    assert tab.page.locator("#map-frame").is_hidden()
    assert tab.violations() == []
    assert tab.errors == []


def test_an_empty_catalogue(serve: Serve, tmp_path: Path, open_tab: Open) -> None:
    write_popular_bundle(tmp_path, [])
    tab = open_tab(serve(CONTREC_BUNDLES=str(tmp_path), CONTREC_BUNDLE="counts").address)
    tab.answered("Nothing to recommend")
    assert "has an empty catalogue" in tab.text("#list-empty")
    tab.page.fill("#search", "anything")
    tab.page.locator("#found", has_text="Nothing found").wait_for()
    tab.page.get_by_role("button", name="Invent one").click()
    notice(tab, "no item to invent a history from")
    assert tab.violations() == []
    assert tab.errors == []


def test_an_api_key_is_asked_for_and_kept_for_the_tab_alone(
    serve: Serve, counts: dict[str, str], open_tab: Open
) -> None:
    key = "ctr_" + "k" * 43
    line = f"page recommend sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    address = serve(**counts, CONTREC_KEYS=line).address
    tab = open_tab(address)
    notice(tab, "The service wants an API key.")
    assert tab.violations() == []
    tab.page.get_by_role("button", name="Enter a key").click()
    tab.page.keyboard.type("a wrong one")
    tab.page.keyboard.press("Enter")
    notice(tab, "The service does not know this API key.")
    tab.page.get_by_role("button", name="Enter a key").click()
    tab.page.fill("#key", key)
    tab.page.keyboard.press("Enter")
    tab.answered("10 recommendations")
    assert tab.page.locator("#notice").is_hidden()
    tab.page.reload()
    tab.answered("10 recommendations")
    assert tab.page.evaluate("JSON.stringify(localStorage)") == "{}"
    another = open_tab(address)
    notice(another, "The service wants an API key.")

    tab.page.get_by_text("Stored user").click()
    tab.page.fill("#user", "ann")
    tab.page.press("#user", "Enter")
    tab.answered("for ann")
    tab.page.locator("#user-note", has_text="lacks the scope users").wait_for()
    tab.page.check("#send")
    tab.pick("Film 1")
    notice(tab, "lacks the scope write")


class Slow(BaseHTTPRequestHandler):
    """Half an answer at once, the rest never; the page's own script beside it."""

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/api.js":
            self.send_header("Content-Type", "text/javascript")
            self.end_headers()
            self.wfile.write((UI / "api.js").read_bytes())
            return
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"items": [')
        self.wfile.flush()
        self.rfile.read()  # until the browser hangs up

    def log_message(self, *_: object) -> None:
        pass


def test_an_answer_that_is_given_up_while_it_arrives_is_no_refusal(open_tab: Open) -> None:
    """A newer question takes its place, and nobody is told of an error."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        became = open_tab(f"{address}/api.js").page.evaluate(
            """async () => {
            const { call } = await import('/api.js');
            const newer = new AbortController();
            const fetched = window.fetch;
            window.fetch = async (...asked) => {
                const answer = await fetched(...asked); // the headers are there
                setTimeout(() => newer.abort(), 50);
                return answer;
            };
            return await call('GET', '/half', undefined, newer.signal).then(() => 'answered', (error) => error.name);
        }"""
        )
        server.shutdown()
    assert became == "AbortError"
