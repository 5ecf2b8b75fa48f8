// Lists of items: the history, what a search finds, and the recommendations with their reasons.

import { el, titleOf } from "./dom.js";

/** A button that shows an item and picks it. */
function pickable(item, pick) {
  const kinds = item.categories?.length ? el("span", { class: "kind" }, item.categories.join(" · ")) : null;
  return el(
    "button",
    { type: "button", class: "pickable", on: { click: () => pick(item) } },
    el("span", { class: "hidden" }, "Add "),
    el("span", { class: "title" }, titleOf(item)),
    kinds,
  );
}

/** The history, newest first. remove: called with the place in the history, or null where it cannot be changed. */
export function showHistory(list, items, remove) {
  const rows = items.map((item, place) => {
    const cross = el(
      "button",
      { type: "button", class: "cross", "aria-label": `Remove ${titleOf(item)}`, on: { click: () => remove(place) } },
      "×",
    );
    return el("li", {}, el("span", { class: "title" }, titleOf(item)), item.kept ? null : cross);
  });
  list.replaceChildren(...rows.reverse());
}

/** What a search found. */
export function showFound(list, items, pick) {
  list.replaceChildren(...items.map((item) => el("li", {}, pickable(item, pick))));
}

/** The recommendations. never: called with an item that must not come back. */
export function showRecommendations(list, items, pick, never) {
  const rows = items.map((item, place) =>
    el(
      "li",
      {},
      el("span", { class: "rank" }, String(place + 1)),
      pickable(item, pick),
      el("span", { class: "score", title: "Score: higher is better" }, el("span", { class: "hidden" }, "score "), scoreOf(item)),
      el(
        "button",
        { type: "button", class: "quiet never", "aria-label": `Never ${titleOf(item)}`, on: { click: () => never(item) } },
        "Never",
      ),
      reasons(item.reasons ?? []),
    ),
  );
  list.replaceChildren(...rows);
}

/** A count as it is, a sum of logarithms with two digits. */
const scoreOf = ({ score }) => (Number.isInteger(score) ? String(score) : score.toFixed(2)).replace("-", "\u2212");

function reasons(given) {
  if (!given.length) return null;
  const named = given.flatMap((reason, n) => [n ? ", " : "", el("b", {}, titleOf(reason))]);
  const kind = given[0].kind === "alike" ? "Like " : "Because of ";
  return el("p", { class: "reasons" }, kind, ...named);
}
