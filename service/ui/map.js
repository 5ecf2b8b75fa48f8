// The map: items as points, the history, the recommendations and the walks over them, on one canvas.
// It knows coordinates and places in lists; titles and what a click means belong to main.js.

const MARGIN = 26; // pixels around the whole map
const NEAR = 14; // how near a pointer must come to a point

/** Draws into canvas. Colours are those of the legend's swatches, so that the two cannot disagree. */
export class CatalogueMap {
  #canvas;
  #base = document.createElement("canvas"); // the points alone: drawn once a view, not once a frame
  #stale = true;
  #frame = 0;
  #x = [];
  #y = [];
  #labels = [];
  #walks = [];
  #marks = { read: [], picks: [] };
  #ringed = null;
  #step = 0;
  #box = { x: 0, y: 0, side: 2 }; // the part of the plane that the whole map shows
  #view = { x: 0, y: 0, zoom: 1 }; // centre in the plane

  constructor(canvas, swatches, on) {
    this.#canvas = canvas;
    this.swatches = swatches;
    this.on = on; // {hover(place | null, x, y), pick(place, touched), zoomed(bool)}
    new ResizeObserver(() => this.redraw()).observe(canvas);
    document.addEventListener("themechange", () => this.redraw());
    this.#listen();
  }

  /** labels: lists of [words, x, y], what matters most first. */
  points(x, y, labels) {
    this.#x = x;
    this.#y = y;
    this.#labels = labels;
    this.whole();
  }

  /** read, picks: lists of [x, y], best first. walks: lists of [x, y], one for each step. */
  marks(read, picks, walks) {
    this.#marks = { read, picks };
    this.#walks = walks;
    this.#ringed = null;
    if (this.#view.zoom === 1) this.whole();
    this.#later();
  }

  /** place: [x, y] of what is to be found with the eye, or null. */
  ring(place) {
    this.#ringed = place;
    this.#later();
  }

  /** step: how many denoising steps are done, a fraction while it moves. */
  step(step) {
    this.#step = step;
    this.#later();
  }

  /** All items, and the walks where they lead beyond. */
  whole() {
    const walked = this.#walks.flat();
    const [left, right] = ends([...this.#x, ...walked.map(([x]) => x)]);
    const [low, high] = ends([...this.#y, ...walked.map(([, y]) => y)]);
    this.#box = { x: (left + right) / 2, y: (low + high) / 2, side: Math.max(right - left, high - low, 1e-6) };
    this.#look({ x: this.#box.x, y: this.#box.y, zoom: 1 });
  }

  /** Zooms to the walks and to where they end. */
  walks() {
    const all = this.#walks.flat();
    if (!all.length) return;
    const [left, right] = ends(all.map(([x]) => x));
    const [low, high] = ends(all.map(([, y]) => y));
    const side = Math.max(right - left, high - low, this.#box.side / 24) * 1.5;
    this.#look({ x: (left + right) / 2, y: (low + high) / 2, zoom: this.#box.side / side });
  }

  zoom(factor, at = null) {
    const zoom = Math.min(60, Math.max(1, this.#view.zoom * factor));
    if (zoom === 1) return this.whole();
    const [x, y] = at ?? [this.#view.x, this.#view.y];
    const share = 1 - this.#view.zoom / zoom;
    this.#look({ x: this.#view.x + (x - this.#view.x) * share, y: this.#view.y + (y - this.#view.y) * share, zoom });
  }

  redraw() {
    this.#stale = true;
    this.#later();
  }

  #look(view) {
    this.#view = view;
    this.on.zoomed(view.zoom > 1);
    this.redraw();
  }

  #later() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  // ---------------------------------------------------------------------------------------- plane <-> pixels

  get #scale() {
    const { clientWidth, clientHeight } = this.#canvas;
    return ((Math.min(clientWidth, clientHeight) - 2 * MARGIN) / this.#box.side) * this.#view.zoom;
  }

  #toPixels([x, y]) {
    const { clientWidth, clientHeight } = this.#canvas;
    const scale = this.#scale;
    return [clientWidth / 2 + (x - this.#view.x) * scale, clientHeight / 2 - (y - this.#view.y) * scale];
  }

  #toPlane(left, top) {
    const { clientWidth, clientHeight } = this.#canvas;
    const scale = this.#scale;
    return [this.#view.x + (left - clientWidth / 2) / scale, this.#view.y - (top - clientHeight / 2) / scale];
  }

  // ------------------------------------------------------------------------------------------------ drawing

  #colour(name) {
    const style = getComputedStyle(this.swatches[name]);
    return name === "read" ? style.color : style.backgroundColor;
  }

  #draw() {
    const canvas = this.#canvas;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width || !height) return;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      for (const one of [canvas, this.#base]) {
        one.width = Math.round(width * ratio);
        one.height = Math.round(height * ratio);
      }
      this.#stale = true;
    }
    if (this.#stale) this.#drawPoints(this.#base.getContext("2d"), width, height, ratio);
    this.#stale = false;
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(this.#base, 0, 0);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#drawMarks(pen);
    this.#drawWalks(pen);
  }

  #drawPoints(pen, width, height, ratio) {
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.fillStyle = this.#colour("item");
    const many = this.#x.length;
    const size = (many > 5000 ? 1.6 : many > 1000 ? 2.4 : 3.4) * Math.min(2, Math.sqrt(this.#view.zoom));
    pen.globalAlpha = many > 5000 ? 0.4 : 0.5;
    pen.beginPath();
    for (let n = 0; n < many; n += 1) {
      const [left, top] = this.#toPixels([this.#x[n], this.#y[n]]);
      if (left < -size || top < -size || left > width + size || top > height + size) continue;
      if (many > 5000) pen.rect(left - size / 2, top - size / 2, size, size);
      else {
        pen.moveTo(left + size, top);
        pen.arc(left, top, size, 0, 7);
      }
    }
    pen.fill();
    pen.globalAlpha = 1;
    this.#drawLabels(pen, width, height);
  }

  /** Words for regions; one that would lie over another, or over the edge, is left out. */
  #drawLabels(pen, width, height) {
    const style = getComputedStyle(this.#canvas);
    pen.font = `600 12px ${style.fontFamily}`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    pen.lineWidth = 4;
    pen.strokeStyle = style.backgroundColor;
    pen.fillStyle = style.color;
    const taken = [];
    for (const [words, x, y] of this.#labels) {
      const [left, top] = this.#toPixels([x, y]);
      const half = pen.measureText(words).width / 2 + 4;
      if (left < half || top < 10 || left > width - half || top > height - 10) continue;
      if (taken.some((one) => Math.abs(one.left - left) < one.half + half && Math.abs(one.top - top) < 18)) continue;
      taken.push({ left, top, half });
      pen.strokeText(words, left, top);
      pen.fillText(words, left, top);
    }
  }

  #drawMarks(pen) {
    const surface = getComputedStyle(this.swatches.read).backgroundColor;
    const disc = ([x, y], radius, fill, edge) => {
      const [left, top] = this.#toPixels([x, y]);
      pen.beginPath();
      pen.arc(left, top, radius, 0, 7);
      pen.fillStyle = fill;
      pen.strokeStyle = edge;
      pen.lineWidth = 2;
      pen.fill();
      pen.stroke();
    };
    for (const place of [...this.#marks.picks].reverse()) disc(place, 5.5, this.#colour("pick"), surface);
    for (const place of this.#marks.read) disc(place, 5, surface, this.#colour("read"));
    if (this.#ringed) {
      disc(this.#ringed, 7, this.#colour("pick"), surface);
      const [left, top] = this.#toPixels(this.#ringed);
      pen.beginPath();
      pen.arc(left, top, 13, 0, 7);
      pen.strokeStyle = this.#colour("walk");
      pen.stroke();
    }
  }

  #drawWalks(pen) {
    const surface = getComputedStyle(this.swatches.read).backgroundColor;
    const colour = this.#colour("walk");
    for (const walk of this.#walks) {
      const at = Math.min(this.#step, walk.length - 1);
      const done = walk.slice(0, Math.floor(at) + 1);
      if (at > Math.floor(at)) done.push(between(walk[Math.floor(at)], walk[Math.ceil(at)], at % 1));
      const path = done.map((point) => this.#toPixels(point));
      pen.beginPath();
      path.forEach(([left, top], n) => (n ? pen.lineTo(left, top) : pen.moveTo(left, top)));
      pen.strokeStyle = colour;
      pen.lineWidth = 1.5;
      pen.lineJoin = "round";
      pen.stroke();
      pen.fillStyle = colour;
      for (const [left, top] of path.slice(0, -1)) {
        pen.beginPath();
        pen.arc(left, top, 1.8, 0, 7);
        pen.fill();
      }
      const [left, top] = path.at(-1);
      pen.beginPath();
      pen.moveTo(left, top - 8);
      pen.lineTo(left + 8, top);
      pen.lineTo(left, top + 8);
      pen.lineTo(left - 8, top);
      pen.closePath();
      pen.fill();
      pen.strokeStyle = surface;
      pen.lineWidth = 2;
      pen.stroke();
    }
  }

  // ------------------------------------------------------------------------------------------------ pointer

  /** The place in the list of the point under the pointer, or null. */
  #under(left, top) {
    let found = null;
    let nearest = NEAR * NEAR;
    for (let n = 0; n < this.#x.length; n += 1) {
      const [px, py] = this.#toPixels([this.#x[n], this.#y[n]]);
      const distance = (px - left) ** 2 + (py - top) ** 2;
      if (distance < nearest) [found, nearest] = [n, distance];
    }
    return found;
  }

  #listen() {
    const canvas = this.#canvas;
    let held = null; // where the pointer went down, and the view then
    canvas.addEventListener("pointerdown", (event) => {
      held = { left: event.offsetX, top: event.offsetY, view: this.#view, moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      const moved = held && Math.hypot(event.offsetX - held.left, event.offsetY - held.top) > 4;
      if (moved && held.view.zoom > 1 && event.buttons) {
        held.moved = true;
        canvas.setPointerCapture(event.pointerId);
        const scale = this.#scale;
        this.on.hover(null);
        this.#look({
          ...held.view,
          x: held.view.x - (event.offsetX - held.left) / scale,
          y: held.view.y + (event.offsetY - held.top) / scale,
        });
      } else if (event.pointerType !== "touch") {
        this.on.hover(this.#under(event.offsetX, event.offsetY), event.offsetX, event.offsetY);
      }
    });
    canvas.addEventListener("click", (event) => {
      if (held?.moved) return;
      const place = this.#under(event.offsetX, event.offsetY);
      this.on.pick(place, event.pointerType === "touch", event.offsetX, event.offsetY);
    });
    canvas.addEventListener("pointerleave", () => this.on.hover(null));
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY / 200), this.#toPlane(event.offsetX, event.offsetY));
      },
      { passive: false },
    );
  }
}

function ends(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return values.length ? [low, high] : [-1, 1];
}

const between = ([x, y], [a, b], share) => [x + (a - x) * share, y + (b - y) * share];
