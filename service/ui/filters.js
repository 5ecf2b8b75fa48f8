// The filters: rules that allow or deny, as chips that can be taken away.

import { $, el, count } from "./dom.js";

export function listenToFilters(session) {
  const value = $("filter-value");
  $("filter-kind").addEventListener("change", () => {
    const byCategory = $("filter-kind").value === "categories";
    byCategory ? value.setAttribute("list", "categories") : value.removeAttribute("list");
  });
  $("filter-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = value.value.trim();
    if (!given) return value.focus();
    session.rule(event.submitter?.value ?? "allow", $("filter-kind").value, given);
    value.value = "";
  });
}

export function showFilters(session) {
  const chips = session.rules.map((one) =>
    el(
      "li",
      {},
      el("span", { class: "title" }, el("b", {}, one.rule === "allow" ? "only " : "never "), one.title),
      el(
        "button",
        { type: "button", class: "cross", "aria-label": `Drop the filter ${one.title}`, on: { click: () => session.unrule(one) } },
        "×",
      ),
    ),
  );
  $("filters").replaceChildren(...chips);
  $("filters-count").textContent = session.rules.length ? count(session.rules.length, "rule") : "";
}

export function offerCategories(categories) {
  $("categories").replaceChildren(
    ...categories.map(([name, items]) => el("option", { value: name, label: count(items, "item") })),
  );
}
