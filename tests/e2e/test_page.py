"""The page at / in a real Chromium: the whole flow, by mouse and keyboard, on a desk and a phone, dark and light."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Position, Route

from tests.e2e.browser import HOSTILE, PHONE, Served, Tab, browser, open_tab, serve, toy_bundles

__all__ = ["browser", "open_tab", "serve", "toy_bundles"]  # fixtures

pytestmark = pytest.mark.browser

Open = Callable[..., Tab]


@pytest.fixture(scope="module")
def address(serve: Callable[..., Served], toy_bundles: Path) -> str:
    return serve(CONTREC_BUNDLES=str(toy_bundles), CONTREC_BUNDLE="toy").address


def test_from_nobody_to_a_list_that_follows_every_click(address: str, open_tab: Open) -> None:
    tab = open_tab(address)
    tab.answered("10 recommendations for anybody")
    assert tab.text("#bundle").startswith("toy/")
    assert "24 items" in tab.text("#bundle")
    assert tab.text("#source").startswith("popular")
    assert "No history" in tab.text("#walk-note")

    for part in (1, 2, 3):
        tab.add(f"Harbour part {part}")
    tab.answered("10 recommendations for this history")
    assert tab.titles()[0] == "Harbour part 4"
    assert not set(tab.titles()) & {"Harbour part 1", "Harbour part 2", "Harbour part 3"}
    assert tab.text("#source").startswith("model")
    assert tab.page.locator("#history .title").all_inner_texts() == [f"Harbour part {n}" for n in (3, 2, 1)]
    for stage in ("store", "encode", "generate", "retrieve", "total"):
        assert stage in tab.text("#timings")

    tab.pick("Harbour part 4")
    tab.page.locator("#list li:first-child .title", has_text="Harbour part 5").wait_for()
    tab.page.get_by_role("button", name="Remove Harbour part 4").click()
    tab.page.locator("#list li:first-child .title", has_text="Harbour part 4").wait_for()
    tab.page.click("#clear")
    tab.answered("for anybody")
    assert tab.errors == []
    assert tab.strangers == []


def test_the_filters_and_the_length(address: str, open_tab: Open) -> None:
    tab = open_tab(address)
    tab.add("Harbour part 1")
    tab.answered("for this history")
    tab.page.click("#filters-box summary")
    tab.page.fill("#filter-value", "orchard")
    tab.page.get_by_role("button", name="Only", exact=True).click()
    tab.page.locator("#filters", has_text="only orchard").wait_for()
    tab.page.fill("#k", "24")
    tab.answered("12 recommendations")
    assert {title.split()[0] for title in tab.titles()} <= {"Orchard", "<img"}
    tab.page.get_by_role("button", name="Never Orchard part 1", exact=True).click()
    tab.answered("11 recommendations")
    assert "Orchard part 1" not in tab.titles()
    tab.page.get_by_role("button", name="Drop the filter orchard", exact=True).click()
    tab.answered("22 recommendations")
    assert tab.text("#filters-count") == "1 rule"
    assert tab.errors == []


def test_reasons_and_diversity(address: str, open_tab: Open) -> None:
    tab = open_tab(address)
    for part in (1, 2, 3):
        tab.add(f"Harbour part {part}")
    tab.answered("for this history")
    assert "Harbour part 3" in tab.text("#list li:first-child .reasons")
    assert tab.text("#leaning li:first-child .name") == "harbour"
    tab.page.uncheck("#explain")
    tab.answered("for this history")
    assert tab.page.locator("#list .reasons").count() == 0
    assert tab.page.locator("#leaning-box").is_hidden()
    best = tab.titles()
    tab.page.locator("#diversity").fill("0.9")
    tab.answered("for this history")
    assert tab.text("#diversity-value") == "0.9"
    assert tab.titles()[0] == best[0]
    assert tab.titles() != best
    assert tab.errors == []


def test_explore_draws_from_its_seed_and_the_walk_can_be_stepped(address: str, open_tab: Open) -> None:
    tab = open_tab(address)
    tab.add("Harbour part 2")
    tab.answered("for this history")
    step = tab.page.locator("#step")
    assert tab.page.locator("#lands li").count() == 5, "the trunk and four samples of the mixture"
    assert tab.text("#lands li:first-child").startswith("50%")
    assert step.get_attribute("max") == "2"
    assert tab.text("#step-value") == "step 2/2, t = 0.6"
    step.press("Home")
    assert tab.text("#step-value") == "step 0/2, t = 1"
    step.press("ArrowRight")
    assert step.get_attribute("aria-valuetext") == "step 1/2, t = 0.8"
    assert "preference vectors" in (tab.page.get_attribute("#map", "aria-label") or "")

    tab.page.locator("#explore").fill("1")
    tab.answered("for this history")
    assert tab.page.locator("#lands li").count() == 4, "at 1 only the drawn samples answer"
    first = tab.titles()
    tab.page.fill("#seed", "99")
    tab.answered("for this history")
    tab.page.fill("#seed", "1")
    tab.answered("for this history")
    assert tab.titles() == first, "the same seed draws the same list"
    assert tab.errors == []


def on_the_map(tab: Tab, place: int) -> Position:
    """Where the item stands that is so popular (0: the most), found as the map does: the whole box, 26 pixels around
    it."""
    left, top = tab.page.evaluate(
        """async (place) => {
        const map = await (await fetch('/page/map')).json();
        const canvas = document.getElementById('map');
        const ends = (v) => [Math.min(...v), Math.max(...v)];
        const [a, b] = ends(map.x), [c, d] = ends(map.y);
        const scale = (Math.min(canvas.clientWidth, canvas.clientHeight) - 52) / Math.max(b - a, d - c);
        return [canvas.clientWidth / 2 + (map.x.at(place) - (a + b) / 2) * scale,
                canvas.clientHeight / 2 - (map.y.at(place) - (c + d) / 2) * scale];
    }""",
        place,
    )
    return {"x": left, "y": top}


def test_the_map_is_drawn_and_a_click_on_it_adds_the_item(address: str, open_tab: Open) -> None:
    tab = open_tab(address)
    tab.answered("for anybody")
    colours = (
        "canvas => new Set(new Uint32Array(canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"
    )
    tab.page.wait_for_function(f"() => ({colours})(document.getElementById('map')) > 3")
    spot = on_the_map(tab, 0)
    first = httpx.get(f"{address}/page/catalogue?limit=1", trust_env=False).json()["items"][0]["title"]
    tab.page.locator("#map").hover(position=spot)
    tab.page.locator("#tip", has_text=first).wait_for()
    tab.page.locator("#map").click(position=spot)
    tab.answered("for this history")
    assert tab.page.locator("#history .title").all_inner_texts() == [first]
    for name in ("Zoom in", "Zoom out", "All", "Walk"):
        tab.page.get_by_role("button", name=name, exact=True).click()
    assert tab.errors == []


def test_a_click_on_an_item_that_has_gone_meanwhile_says_so(address: str, open_tab: Open) -> None:
    tab = open_tab(address)
    tab.page.route("**/page/catalogue?*", lambda route: route.fulfill(json={"items": [], "total": 0}))
    tab.page.reload()  # nothing is known by an earlier search
    tab.answered("for anybody")
    tab.page.locator("#map-frame").wait_for()
    tab.page.locator("#map").click(position=on_the_map(tab, -1))
    tab.page.locator("#notice-text", has_text="This item is no longer in the catalogue.").wait_for()
    assert tab.page.locator("#history .title").count() == 0
    assert tab.errors == []


def test_a_recommendation_under_the_pointer_is_ringed_on_the_map(address: str, open_tab: Open) -> None:
    tab = open_tab(address)
    tab.add("Harbour part 1")
    tab.answered("for this history")
    drawn = "document.getElementById('map').toDataURL()"
    tab.page.locator("#lands li").first.wait_for()
    tab.page.mouse.move(0, 0)
    tab.page.wait_for_timeout(100)
    plain = tab.page.evaluate(drawn)
    tab.page.locator("#list li:nth-child(2) .pickable").hover()
    tab.page.wait_for_function(f"plain => {drawn} !== plain", arg=plain)
    tab.page.mouse.move(0, 0)
    tab.page.wait_for_function(f"plain => {drawn} === plain", arg=plain)
    tab.page.focus("#list li:nth-child(2) .pickable")
    tab.page.wait_for_function(f"plain => {drawn} !== plain", arg=plain)
    assert tab.errors == []


def test_the_page_ends_where_its_parts_end(address: str, open_tab: Open) -> None:
    """The words for screen readers in the scrolled list of the catalogue once made it twice as long."""
    tab = open_tab(address)
    tab.answered("for anybody")
    tab.page.locator("#results li").nth(20).wait_for(state="attached")
    end, page = tab.page.evaluate("""() => [document.querySelector('main').getBoundingClientRect().bottom + scrollY,
        document.documentElement.scrollHeight]""")
    assert page <= max(end, 900) + 1


def test_a_stored_user_and_real_events(address: str, open_tab: Open) -> None:
    events = [{"event_id": f"ann-{n}", "user_id": "ann", "item_id": f"item-{n}", "time": n} for n in range(12, 15)]
    assert httpx.post(f"{address}/events", json={"events": events}, trust_env=False).status_code == httpx.codes.OK
    tab = open_tab(address)
    tab.page.get_by_text("Stored user").click()
    tab.page.fill("#user", "ann")
    tab.page.press("#user", "Enter")
    tab.answered("10 recommendations for ann")
    assert tab.titles()[0] == "Orchard part 4"
    tab.page.check("#send")
    tab.page.select_option("#event-type", "like")
    tab.pick("Orchard part 4")
    tab.page.locator("#user-note", has_text="Sent: like of Orchard part 4").wait_for()
    tab.page.locator("#list li:first-child .title", has_text="Orchard part 5").wait_for()
    asked = httpx.post(f"{address}/recommend", json={"user_id": "ann", "k": 1}, trust_env=False).json()
    assert asked["items"][0]["title"] == "Orchard part 5", "the service kept it"
    assert tab.errors == []


def test_a_late_answer_about_another_user_is_dropped(address: str, open_tab: Open) -> None:
    """It would become the history of whoever is meant now, and be sent as theirs."""
    tab = open_tab(address)
    tab.page.evaluate("sessionStorage.setItem('contrec.key', 'any')")
    held: list[Route] = []
    tab.page.route("**/users/alice", lambda route: held.append(route))
    tab.page.route("**/users/bob", lambda route: route.fulfill(json={"history": ["item-12"]}))
    tab.page.get_by_text("Stored user").click()
    for name in ("alice", "bob"):
        tab.page.fill("#user", name)
        tab.page.press("#user", "Enter")
    titles = tab.page.locator("#history .title")
    titles.first.wait_for()
    told = titles.all_inner_texts()
    held[0].fulfill(json={"history": ["item-13", "item-14"]})
    tab.answered("recommendations for bob")
    tab.page.wait_for_timeout(500)
    assert titles.all_inner_texts() == told
    assert len(told) == 1
    assert tab.errors == []


def test_another_bundle_brings_another_map(address: str, open_tab: Open) -> None:
    tab = open_tab(address)
    tab.answered("10 recommendations")
    tab.page.wait_for_timeout(5100)  # a map stands for five seconds at least
    maps: list[str] = []
    tab.page.on("request", lambda request: maps.append(request.url) if request.url.endswith("/page/map") else None)

    def swapped(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | {"bundle": "another/1"})

    tab.page.route("**/recommend", swapped, times=1)
    tab.page.fill("#k", "11")
    tab.answered("11 recommendations")
    tab.page.wait_for_timeout(500)
    assert len(maps) == 1
    assert tab.errors == []


def test_titles_are_text_and_never_markup(address: str, open_tab: Open) -> None:
    tab = open_tab(address)
    tab.page.fill("#k", "24")
    tab.answered("24 recommendations")
    for item_id, title in HOSTILE.items():
        assert title in tab.titles()
        tab.page.fill("#search", item_id)
        tab.pick(title, "#results")
        tab.page.get_by_role("button", name=f"Remove {title}", exact=True).wait_for()
        assert title in tab.page.locator("#history .title").all_inner_texts()
    tab.page.get_by_role("button", name=f"Remove {HOSTILE['item-11']}", exact=True).click()
    tab.page.get_by_role("button", name=f"Never {HOSTILE['item-11']}", exact=True).click()
    tab.page.locator("#filters", has_text=HOSTILE["item-11"]).wait_for()
    assert tab.page.title() == "contrec"
    assert tab.page.locator("main img, main script").count() == 0
    assert tab.errors == []


def test_by_keyboard_alone(address: str, open_tab: Open) -> None:
    tab = open_tab(address)
    tab.answered("for anybody")
    keyboard = tab.page.keyboard
    focused = "document.activeElement.id || document.activeElement.textContent.trim()"
    keyboard.press("Tab")
    assert tab.page.evaluate(focused) == "Skip to the recommendations"
    assert tab.page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0, "and it shows"
    keyboard.press("Enter")
    assert tab.page.evaluate(focused) == "recommendations"
    keyboard.press("Tab")
    assert tab.page.evaluate(focused) == "explore"
    assert tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.page.focus("#search")
    keyboard.type("harbour part 7")
    tab.page.locator("#found", has_text="found").wait_for()
    keyboard.press("Tab")
    keyboard.press("Enter")
    tab.answered("for this history")
    assert tab.titles()[0] == "Harbour part 8"
    order = tab.page.evaluate("""() => [...document.querySelectorAll('input, select, button, summary, a[href]')]
        .filter((one) => one.tabIndex > 0).length""")
    assert order == 0, "the order of focus is the order of the page"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True])
def test_axe_finds_nothing(address: str, open_tab: Open, scheme: str, phone: bool) -> None:
    tab = open_tab(address, color_scheme=scheme, **({"viewport": PHONE, "has_touch": True} if phone else {}))
    tab.answered("for anybody")
    assert tab.violations() == []
    tab.add("Harbour part 1")
    tab.answered("for this history")
    tab.page.locator("#explore").fill("0.5")
    tab.page.get_by_text("Stored user").click()
    tab.page.click("#filters-box summary")
    tab.page.fill("#filter-value", "orchard")
    tab.page.get_by_role("button", name="Never", exact=True).click()
    tab.page.click("#key-box summary")
    tab.page.locator("#filters", has_text="never orchard").wait_for()
    assert tab.violations() == []


def test_dark_and_light_follow_the_system_and_the_button(address: str, open_tab: Open) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    tab = open_tab(address, color_scheme="dark")
    dark = tab.page.evaluate(ground)
    tab.page.get_by_role("button", name="Switch between dark and light").click()
    light = tab.page.evaluate(ground)
    assert dark == "rgb(18, 19, 22)"
    assert light == "rgb(246, 245, 242)"
    tab.page.reload()
    assert tab.page.evaluate(ground) == light, "it is remembered"
    assert open_tab(address, color_scheme="light").page.evaluate(ground) == light


def test_a_phone_shows_everything_without_scrolling_sideways(address: str, open_tab: Open) -> None:
    tab = open_tab(address, viewport=PHONE, has_touch=True, is_mobile=True)
    tab.page.fill("#k", "24")
    tab.answered("24 recommendations")  # hostile titles, long without a blank, among them
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    small = tab.page.evaluate("""() => [...document.querySelectorAll('button, select, summary, [type=search]')]
        .filter((one) => one.offsetParent && Math.min(one.offsetHeight, one.offsetWidth) < 24)
        .map((one) => one.outerHTML)""")
    assert small == [], "too small for a finger (WCAG 2.5.8)"
    tab.page.get_by_role("link", name="Map").click()
    assert tab.page.evaluate("document.getElementById('map').getBoundingClientRect().width") > 280
    assert tab.errors == []


def test_motion_only_where_it_is_wanted(address: str, open_tab: Open) -> None:
    moving = open_tab(address, reduced_motion="no-preference")
    moving.add("Harbour part 2")
    moving.page.get_by_role("button", name="Stop", exact=True).wait_for()
    moving.page.get_by_role("button", name="Play", exact=True).wait_for()
    assert moving.text("#step-value").startswith("step 2/2")
    still = open_tab(address)
    still.page.evaluate("""() => { window.played = false; new MutationObserver(() => {
        window.played ||= document.getElementById('play').textContent === 'Stop';
    }).observe(document.getElementById('play'), {childList: true}); }""")
    still.add("Harbour part 2")
    still.answered("for this history")
    still.page.locator("#lands li").first.wait_for()
    assert still.page.evaluate("window.played") is False
