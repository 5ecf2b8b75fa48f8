// Who is asking and for what: the one state of the page. Knows no elements and no network.

export const MAX_HISTORY = 1000;

/** Tells "change" after each method that changes what would be asked. */
export class Session extends EventTarget {
  mode = "invented"; // or "stored"
  user = "";
  history = []; // items clicked here, oldest first
  stored = null; // the stored user's items, oldest first, where the service tells them
  dials = { k: 10, explore: 0, diversity: 0, seed: 1, explain: true };
  rules = []; // {rule: "allow" | "deny", kind: "categories" | "items", value, title}

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  choose(mode, user = this.user) {
    Object.assign(this, { mode, user, history: [], stored: null });
    this.changed();
  }

  add(item) {
    this.history = [...this.history, item].slice(-MAX_HISTORY);
    this.changed();
  }

  removeAt(place) {
    this.history = this.history.filter((_, n) => n !== place);
    this.changed();
  }

  replace(items) {
    this.history = items.slice(-MAX_HISTORY);
    this.changed();
  }

  turn(dial, value) {
    this.dials = { ...this.dials, [dial]: value };
    this.changed();
  }

  rule(rule, kind, value, title = value) {
    const others = this.rules.filter((one) => one.kind !== kind || one.value !== value);
    this.rules = [...others, { rule, kind, value, title }];
    this.changed();
  }

  unrule(rule) {
    this.rules = this.rules.filter((one) => one !== rule);
    this.changed();
  }

  /** The items that the model reads, as far as the page knows them; what a map can mark. */
  get read() {
    return this.mode === "stored" ? [...(this.stored ?? []), ...this.history] : this.history;
  }

  /** What says whose taste it is, for /recommend and /page/trace alike. */
  get person() {
    if (this.mode === "invented") return { history: this.history.map((item) => item.item_id) };
    if (!this.history.length) return { user_id: this.user };
    return { user_id: this.user, history: this.read.slice(-MAX_HISTORY).map((item) => item.item_id) };
  }

  /** The body of POST /recommend. */
  get question() {
    const { k, explore, diversity, seed, explain } = this.dials;
    const body = { ...this.person, k, explore, diversity, explain };
    if (explore > 0) body.seed = seed;
    for (const { rule, kind, value } of this.rules) {
      body[rule] ??= { categories: [], items: [] };
      body[rule][kind].push(value);
    }
    return body;
  }

  /** The body of POST /page/trace. mark: items whose places are asked for. */
  walk(mark) {
    const { explore, seed } = this.dials;
    return { ...this.person, explore, seed, mark };
  }
}
