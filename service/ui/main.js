// The page: what happens when somebody clicks. Every change of the session asks again, and the newest question wins.

import { showLeaning, showSource, showTimings } from "./answer.js";
import { call, keepKey, keyOfTab, Refusal } from "./api.js";
import { $, count, titleOf } from "./dom.js";
import { listenToFilters, offerCategories, showFilters } from "./filters.js";
import { showFound, showHistory, showRecommendations } from "./items.js";
import { CatalogueMap } from "./map.js";
import { clear, showRefusal, showWords } from "./notice.js";
import { Session } from "./session.js";
import { Stepper, walkNote } from "./walk.js";

const SETTLE_MS = 120; // how long a change may be followed by another before the service is asked
const MAP_MS = 5000; // how long a map stands at least
const session = new Session();
const known = new Map(); // item_id -> item, for what has been told with its title
let shownIds = []; // of the points on the map
let mapBundle = null; // whose map it is; null while there is none
let mapAt = 0; // when it came: replicas in the middle of a swap must not have it asked for again and again
let turn = 0; // changes with whoever is meant, so that a late answer about somebody else is known by it
let lastRecommendation = null;
let lastWalked = "";
let pickPlaces = []; // of the recommendations on the map, best first; null where the map has none

const remember = (items) => items.forEach((item) => known.set(item.item_id, item));
const ignoreAbort = (error) => {
  if (error.name !== "AbortError") throw error;
};

// ------------------------------------------------------------------------------------------------------- asking

/** Runs work(signal), at most once at a time: a newer run cancels an older one that still waits. */
function newestOnly(work, settle = SETTLE_MS) {
  let controller = null;
  let timer = 0;
  return (at_once = false) => {
    clearTimeout(timer);
    controller?.abort();
    controller = new AbortController();
    const { signal } = controller;
    timer = setTimeout(() => work(signal).catch(ignoreAbort), at_once ? 0 : settle);
  };
}

const busy = (asking) => $("recommendations").classList.toggle("busy", asking);

const ask = newestOnly(async (signal) => {
  if (session.mode === "stored" && !session.user) return busy(false);
  try {
    const answer = await call("POST", "/recommend", session.question, signal);
    remember(answer.items);
    show(answer);
    clear();
    // A service that has just started again answers before it has its bundle: the map waits for that, and asks again.
    if (answer.bundle === null && mapBundle !== null) return void setTimeout(loadMap, 1000);
    // Another bundle has been taken up: its map is another one.
    if (answer.bundle !== mapBundle && performance.now() - mapAt > MAP_MS) return void loadMap();
    await walk(answer, signal);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    $("status").textContent = $("list").childElementCount ? "No answer. Below is the last one." : "No answer.";
    for (const id of ["source", "timings-box"]) $(id).hidden = true;
    refuse(error, () => ask(true));
  } finally {
    if (!signal.aborted) busy(false);
  }
});

function refuse(error, retry) {
  if (!(error instanceof Refusal)) throw error;
  showRefusal(error, retry);
}

const search = newestOnly(async (signal) => {
  const query = $("search").value.trim();
  try {
    const { items, total } = await call("GET", `/page/catalogue?limit=30&q=${encodeURIComponent(query)}`, undefined, signal);
    remember(items);
    showFound($("results"), items, pick);
    if (query) $("found").textContent = total ? `${count(total, "item")} found` : "Nothing found";
    else $("found").textContent = total ? `The most popular of ${count(total, "item")}` : "";
  } catch (error) {
    refuse(error, () => search(true));
  }
});

async function loadMap() {
  try {
    const map = await call("GET", "/page/map");
    [mapBundle, mapAt] = [map.bundle, performance.now()];
    shownIds = map.item_ids;
    theMap.points(map.x, map.y, map.labels);
    offerCategories(map.categories);
    $("bundle").textContent = map.bundle === null ? "no bundle" : `${map.bundle} · ${count(map.items, "item")}`;
    $("bundle").title = $("bundle").textContent;
    $("map-note").textContent = mapNote(map);
    for (const id of ["map-frame", "legend", "map-views"]) $(id).hidden = !map.x.length;
    if (map.state === "loading") return void setTimeout(loadMap, 1000);
    $("list-empty").hidden = map.bundle !== null;
    if (map.bundle === null) {
      $("list-empty").textContent = `No bundle is served: ${map.reason}. Until one is, answers are the items most often met in the events.`;
    } else if (map.reason) {
      showWords(`The last bundle was refused, the one before it answers: ${map.reason}.`);
    }
    search(true);
    ask(true);
  } catch (error) {
    refuse(error, loadMap);
  }
}

function mapNote(map) {
  if (map.bundle === null) return "Without a bundle there is nothing to draw.";
  const part = map.x.length < map.items ? `The ${count(map.x.length, "most popular item")} of ${map.items.toLocaleString("en")}. ` : "";
  return `${part}The two directions in which the items' vectors differ most (PCA) hold ${Math.round(100 * map.share)}% of their variance: near here is a hint, near in the model is what counts.`;
}

// ------------------------------------------------------------------------------------------------------ showing

function show(answer) {
  lastRecommendation = answer.recommendation_id;
  showRecommendations($("list"), answer.items, pick, (item) => session.rule("deny", "items", item.item_id, titleOf(item)));
  showSource($("source"), answer, !session.history.length && (session.mode === "invented" || !session.stored?.length));
  showTimings($("timings-bar"), $("timings"), answer.timings_ms);
  $("timings-box").hidden = false;
  showLeaning($("leaning-box"), $("leaning"), answer.categories ?? []);
  const whose = session.mode === "stored" ? `for ${session.user}` : session.history.length ? "for this history" : "for anybody";
  $("status").textContent = answer.items.length
    ? `${count(answer.items.length, "recommendation")} ${whose} in ${answer.timings_ms.total.toFixed(1)} ms`
    : "Nothing to recommend: no item is left.";
}

/** The map follows the list. Where only that fails, the list stands and the walk alone is asked for again. */
async function walk(answer, signal) {
  try {
    await drawWalk(answer, signal);
    clear();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    refuse(error, () => walk(answer, signal).catch(ignoreAbort));
  }
}

async function drawWalk(answer, signal) {
  const read = session.read.slice(-1000);
  const mark = [...read, ...answer.items].map((item) => item.item_id);
  const { bundle, walks, marks } = await call("POST", "/page/trace", session.walk(mark), signal);
  if (bundle !== mapBundle) return; // places on another map
  const places = marks.map((place) => place ?? null);
  pickPlaces = places.slice(read.length);
  theMap.marks(
    places.slice(0, read.length).filter(Boolean),
    pickPlaces.filter(Boolean),
    walks.map((walk) => walk.steps.map((step) => [step.x, step.y])),
  );
  const fingerprint = JSON.stringify(walks);
  stepper.set(walks, fingerprint !== lastWalked);
  lastWalked = fingerprint;
  $("zoom-walk").hidden = !walks.length;
  $("walk-note").textContent = walkNote(walks, session.mode === "stored" ? 1 : read.length);
  const words = [count(shownIds.length, "item"), `${read.length} of the history`, count(answer.items.length, "recommendation")];
  $("map").setAttribute("aria-label", `Map of the catalogue: ${words.join(", ")}, ${count(walks.length, "preference vector")}.`);
}

function showWho() {
  const stored = session.mode === "stored";
  $("user-form").hidden = !stored;
  $("invent").hidden = stored;
  showHistory($("history"), session.read, (place) => session.removeAt(place - (session.stored?.length ?? 0)));
  $("clear").hidden = !session.history.length;
  $("history-empty").hidden = session.read.length > 0;
  $("history-empty").textContent = stored
    ? "What is stored is read by the service. Click items to go on from there."
    : "Click any item to begin a history: the recommendations follow at once.";
}

// ------------------------------------------------------------------------------------------------------- acting

async function pick(item) {
  if (session.mode === "stored" && $("send").checked && session.user) return sendEvent(item);
  session.add(item);
}

/** Who is meant from now on. What comes of an earlier question about somebody else is dropped: see `turn`. */
function choose(mode, user) {
  turn += 1;
  session.choose(mode, user);
  return turn;
}

async function sendEvent(item) {
  const mine = turn;
  const event = { event_id: crypto.randomUUID?.() ?? `page-${Date.now()}-${Math.random()}`, user_id: session.user, item_id: item.item_id };
  event.type = $("event-type").value;
  if (lastRecommendation) event.recommendation_id = lastRecommendation;
  try {
    await call("POST", "/events", event);
    if (mine !== turn) return;
    $("user-note").textContent = `Sent: ${event.type} of ${titleOf(item)}.`;
    if (session.stored) session.stored = [...session.stored, { ...item, kept: true }];
    session.changed();
  } catch (error) {
    showRefusal(error, null);
  }
}

async function loadUser() {
  const mine = choose("stored", $("user").value.trim());
  $("user-note").textContent = session.user ? "" : "Type the id of a user whose events the service holds.";
  if (!session.user || !keyOfTab()) return;
  try {
    const told = await call("GET", `/users/${encodeURIComponent(session.user)}`);
    const ids = (told.history ?? []).slice(-50);
    const named = ids.length ? await call("GET", `/page/catalogue?${ids.map((id) => `item=${encodeURIComponent(id)}`).join("&")}`) : { items: [] };
    remember(named.items);
    if (mine !== turn) return;
    session.stored = ids.map((id) => ({ ...(known.get(id) ?? { item_id: id, title: "", categories: [] }), kept: true }));
    session.changed();
  } catch (error) {
    if (mine !== turn) return;
    $("user-note").textContent = `The stored history is not shown: ${error.message}`;
  }
}

async function invent() {
  const ids = Array.from({ length: 5 }, () => shownIds[Math.floor(Math.random() * shownIds.length)]).filter(Boolean);
  if (!ids.length) return showWords("There is no item to invent a history from.");
  const mine = (turn += 1);
  const { items } = await call("GET", `/page/catalogue?${ids.map((id) => `item=${encodeURIComponent(id)}`).join("&")}`);
  remember(items);
  if (mine === turn) session.replace(items);
}

// --------------------------------------------------------------------------------------------------------- map

const swatches = Object.fromEntries(["item", "read", "pick", "walk"].map((name) => [name, $(`swatch-${name}`)]));
let hovered = null;
let naming = 0;

const theMap = new CatalogueMap($("map"), swatches, {
  hover: (place, left, top) => tip(place, left, top),
  zoomed: (zoomed) => $("map-frame").classList.toggle("zoomed", zoomed),
  pick: async (place, touched, left, top) => {
    if (place === null) return tip(null);
    if (touched && hovered !== place) return tip(place, left, top, " Tap again to add it.");
    const id = shownIds[place];
    try {
      await nameOf(id);
    } catch (error) {
      return refuse(error, null);
    }
    if (known.has(id)) pick(known.get(id));
    else showWords("This item is no longer in the catalogue.");
  },
});
const stepper = new Stepper((step) => theMap.step(step));

async function nameOf(id) {
  if (!known.has(id)) remember((await call("GET", `/page/catalogue?item=${encodeURIComponent(id)}`)).items);
  return titleOf(known.get(id) ?? { item_id: id });
}

function tip(place, left = 0, top = 0, hint = "") {
  const box = $("tip");
  clearTimeout(naming);
  const same = place !== null && hovered === place;
  hovered = place;
  if (place === null) return void (box.hidden = true);
  const put = (words) => {
    box.textContent = words + hint;
    box.hidden = false;
    const frame = $("map-frame");
    box.style.left = `${Math.max(4, Math.min(left + 12, frame.clientWidth - box.offsetWidth - 4))}px`;
    box.style.top = `${Math.max(4, Math.min(top + 12, frame.clientHeight - box.offsetHeight - 4))}px`;
  };
  const id = shownIds[place];
  if (known.has(id)) return put(titleOf(known.get(id)));
  if (!same) box.hidden = true;
  naming = setTimeout(() => nameOf(id).then((name) => hovered === place && put(name), () => {}), 80);
}

/** The recommendation under the pointer or the focus is ringed on the map. */
function ring(event) {
  const row = event.type === "mouseover" || event.type === "focusin" ? event.target.closest("#list > li") : null;
  theMap.ring(row ? (pickPlaces[[...$("list").children].indexOf(row)] ?? null) : null);
}

// ------------------------------------------------------------------------------------------------------ wiring

for (const event of ["mouseover", "mouseleave", "focusin", "focusout"]) $("list").addEventListener(event, ring);

session.addEventListener("change", () => {
  busy(true);
  showWho();
  showFilters(session);
  ask();
});

for (const radio of document.querySelectorAll('input[name="mode"]')) {
  radio.addEventListener("change", () => (radio.value === "stored" ? loadUser() : choose("invented")));
}
$("user-form").addEventListener("submit", (event) => {
  event.preventDefault();
  loadUser();
});
$("clear").addEventListener("click", () => session.replace([]));
$("invent").addEventListener("click", () => invent().catch((error) => refuse(error, null)));
$("search").addEventListener("input", () => search());
for (const dial of ["k", "explore", "diversity", "seed"]) {
  $(dial).addEventListener("input", () => {
    const value = $(dial).valueAsNumber;
    if ($(`${dial}-value`)) $(`${dial}-value`).textContent = String(value);
    if (!Number.isNaN(value)) session.turn(dial, value);
  });
}
$("explain").addEventListener("change", () => session.turn("explain", $("explain").checked));
$("reseed").addEventListener("click", () => {
  $("seed").value = String(Math.floor(Math.random() * 1e6));
  session.turn("seed", $("seed").valueAsNumber);
});
$("key").value = keyOfTab();
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey($("key").value.trim());
  $("key-box").open = false;
  $("key-box").querySelector("summary").focus();
  loadMap();
});
$("zoom-in").addEventListener("click", () => theMap.zoom(1.6));
$("zoom-out").addEventListener("click", () => theMap.zoom(1 / 1.6));
$("zoom-all").addEventListener("click", () => theMap.whole());
$("zoom-walk").addEventListener("click", () => theMap.walks());
listenToFilters(session);
loadMap();
