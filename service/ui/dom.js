// Elements without markup: whatever comes from the service goes in as text.

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** A new element. given: attributes, and `class`, `on` ({event: listener}). children: elements or strings. */
export function el(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    } else if (value !== undefined && value !== null && value !== false) {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** What a person calls an item. */
export const titleOf = (item) => item.title || item.item_id;

/** "1 item", "2 items". */
export const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
