// The denoising, step by step: the slider and its Play button, and in words where each preference vector lies.

import { $, el, titleOf } from "./dom.js";

const MS_A_STEP = 650;
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Stepper {
  #walks = [];
  #last = 0;
  #frame = 0;

  /** show(step): called with the steps that are done, a fraction while it moves. */
  constructor(show) {
    this.show = show;
    $("step").addEventListener("input", () => {
      this.#stop();
      this.#at($("step").valueAsNumber);
    });
    $("play").addEventListener("click", () => (this.#frame ? this.#stop() : this.play()));
  }

  /** New walks. They play once by themselves, unless motion is not wanted or this is nothing new. */
  set(walks, play) {
    this.#stop();
    this.#walks = walks;
    this.#last = Math.max(0, ...walks.map((walk) => walk.steps.length - 1));
    $("step").max = String(this.#last);
    $("stepper").hidden = this.#last === 0;
    this.#at(this.#last);
    if (play && this.#last && !still.matches) this.play();
  }

  play() {
    let started = null;
    const frame = (now) => {
      started ??= now;
      const step = Math.min(this.#last, (now - started) / MS_A_STEP);
      this.#at(still.matches ? Math.floor(step) : step);
      if (step < this.#last) this.#frame = requestAnimationFrame(frame);
      else this.#stop();
    };
    this.#frame = requestAnimationFrame(frame);
    $("play").textContent = "Stop";
  }

  #stop() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    $("play").textContent = "Play";
  }

  #at(step) {
    this.show(step);
    const done = Math.floor(step);
    if ($("step").valueAsNumber === done && $("lands").childElementCount === this.#walks.length && this.told === done) return;
    this.told = done;
    $("step").value = String(done);
    const longest = this.#walks.find((walk) => walk.steps.length - 1 === this.#last);
    const words = longest ? `step ${done}/${this.#last}, t = ${longest.steps[done].time}` : "";
    $("step-value").textContent = words;
    $("step").setAttribute("aria-valuetext", words);
    $("lands").replaceChildren(
      ...this.#walks.map((walk) => {
        const here = walk.steps[Math.min(done, walk.steps.length - 1)];
        return el(
          "li",
          {},
          el("span", { class: "share" }, `${Math.round(100 * walk.share)}%`),
          el("span", {}, walk.steps.length > 1 ? "sample" : "trunk"),
          el("b", {}, titleOf(here.nearest)),
        );
      }),
    );
  }
}

/** What the walks are, in a sentence. */
export function walkNote(walks, historyLength) {
  if (!historyLength) return "No history, no preference: the list is the popular one.";
  if (!walks.length) return "This answer was made without preference vectors.";
  if (walks.every((walk) => walk.steps.length === 1)) {
    return "The trunk answers alone with this bundle: nothing is denoised. Turn Explore up to draw samples. The vector, and the item nearest to it:";
  }
  return "Each sample begins as pure noise, where the head is the trunk's own vector, and is denoised to where it lands. Weight, vector, and the item nearest to it at this step:";
}
