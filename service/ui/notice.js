// What went wrong, in words, and what can be done about it. One notice at a time: the last one counts.

import { $ } from "./dom.js";

let timer = 0;

/** Shows a Refusal. retry: asks again, by itself after refusal.again seconds, or by the button. */
export function showRefusal(refusal, retry) {
  clear();
  $("notice").hidden = false;
  const button = $("notice-act");
  if (refusal.status === 401 || (refusal.status === 403 && !$("key-box").open)) {
    say(refusal.message, "Enter a key", () => {
      $("key-box").open = true;
      $("key").focus();
    });
  } else if (refusal.again !== null && retry) {
    say(`${refusal.message} Asking again in ${refusal.again} s.`, "Ask now", retry);
    timer = setTimeout(retry, 1000 * refusal.again);
  } else {
    say(refusal.message);
    button.hidden = true;
  }
  markField(refusal.field);
}

/** A sentence that is no refusal of the service. */
export function showWords(sentence) {
  clear();
  $("notice").hidden = false;
  say(sentence);
}

export function clear() {
  clearTimeout(timer);
  $("notice").hidden = true;
  markField(null);
}

function say(sentence, action = null, act = null) {
  if ($("notice-text").textContent !== sentence) $("notice-text").textContent = sentence;
  $("notice-act").hidden = action === null;
  $("notice-act").textContent = action ?? "";
  $("notice-act").onclick = act;
}

// Which control is to blame for a field of the request.
const CONTROLS = { k: "k", explore: "explore", diversity: "diversity", seed: "seed", user_id: "user", allow: "filter-value", deny: "filter-value" };

function markField(field) {
  for (const id of new Set(Object.values(CONTROLS))) $(id).removeAttribute("aria-invalid");
  const blamed = field && CONTROLS[field.split(/[.[]/)[0]];
  if (blamed) $(blamed).setAttribute("aria-invalid", "true");
}
