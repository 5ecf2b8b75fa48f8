// How an answer came about: the rung of the ladder, what it had to do without, and where the time went.

import { el } from "./dom.js";

const RUNGS = {
  model: "the model read this history and answered",
  stale: "the model's reading of an older history: the trunk failed just now",
  neighbours: "items near the history: the model failed or had no reading",
  popular: "the most popular items: the model was out of reach",
};

const MISSING = {
  history_unavailable: "the store is out of reach: what is stored of the user is not in it",
};

/** The rung in words, and every flag. stranger: whether there was no history to read. */
export function showSource(place, answer, stranger) {
  const well = answer.source === "model" || (answer.source === "popular" && stranger);
  const why = answer.source === "popular" && stranger ? "the most popular items: there is no history to read" : RUNGS[answer.source];
  const parts = [el("span", { class: well ? "badge" : "badge warn" }, answer.source), el("span", {}, why ?? "")];
  for (const flag of [answer.degraded ?? []].flat()) {
    parts.push(el("span", { class: "badge warn" }, "degraded"), el("span", {}, MISSING[flag] ?? flag));
  }
  if (answer.ignored) parts.push(el("span", {}, `${answer.ignored} ids are not in the catalogue and were ignored`));
  place.replaceChildren(...parts);
  place.hidden = false;
}

/** The categories that the taste leans to, most first: a bar each. */
export function showLeaning(box, list, categories) {
  list.replaceChildren(
    ...categories.slice(0, 6).map(({ category, probability }) => {
      const bar = el("i", { class: "share" });
      bar.style.width = `${100 * Math.min(1, probability)}%`;
      return el("li", {}, el("span", { class: "name" }, category), el("span", { class: "track" }, bar), el("span", {}, `${Math.round(100 * probability)}%`));
    }),
  );
  box.hidden = !categories.length;
}

/** The milliseconds of each stage: a bar to see, a list to read. What no stage claims is "other". */
export function showTimings(bar, list, timings) {
  const { total, ...stages } = timings;
  const claimed = Object.values(stages).reduce((sum, one) => sum + one, 0);
  const shown = [...Object.entries(stages), ["other", Math.max(0, total - claimed)]];
  bar.replaceChildren(
    ...shown.map(([, spent]) => {
      const part = el("i");
      part.style.flexGrow = String(1000 * spent); // shares that add up to less than 1 would not fill the bar
      part.hidden = spent === 0;
      return part;
    }),
  );
  const row = (name, spent, key) =>
    el("div", {}, el("dt", {}, key ? el("i", {}) : null, name), el("dd", {}, `${spent.toFixed(1)} ms`));
  list.replaceChildren(...shown.map(([name, spent]) => row(name, spent, true)), row("total", total, false));
}
