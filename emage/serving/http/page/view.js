/** Shows a run (images/run.js): its images as they arrive, one of them large with its filmstrip, and the timings. */

import { isComplete, isEmpty, isUpload, title, urlOf } from "./images/run.js";

const $ = (id) => document.getElementById(id);

export class View {
  run = null;

  constructor({ onPick, onReturn, onDownload }) {
    Object.assign(this, { onPick, onReturn, onDownload });
    $("replay").addEventListener("click", () => this.#replay());
  }

  /** Shows a run from scratch: another run, another of its images, or another state. */
  show(run) {
    clearInterval(this.player);
    this.run = run;
    const several = run.images.length > 1;
    const sideBySide = run.chosen === null;
    $("board").classList.toggle("side-by-side", sideBySide);
    $("large").hidden = sideBySide;
    $("stage").className = run.state;
    $("thumbnails").hidden = !several;
    fill($("thumbnails"), several ? run.images : [], (_, index) => this.#thumbnail(index));
    $("filmstrip").replaceChildren();
    this.#update();
  }

  /** Shows the newest images and timings of a run, if it is the one that is shown. */
  update(run) {
    if (run === this.run) this.#update();
  }

  /** Shows the earlier runs, newest first. They can be picked if `enabled`. */
  showEarlier(runs, enabled) {
    $("earlier").hidden = runs.every((run) => run === this.run);
    $("zip-all").hidden = runs.every(isUpload);
    $("runs").replaceChildren(...runs.map((run) => {
      const kind = run.edit ? "Edited: " : isUpload(run) ? "Your image: " : "";
      const box = tile("run", kind + title(run), () => this.onReturn(run));
      const input = box.querySelector("input");
      Object.assign(input, { disabled: !enabled, checked: run === this.run });
      image(box, run.images[run.chosen ?? 0].frames.at(-1));
      return box;
    }));
  }

  /** The image that is shown large, and its frame. */
  get shown() {
    const { images, chosen, frame } = this.run;
    const { frames } = images[chosen ?? 0];
    return { image: images[chosen ?? 0], frame: frames[frame ?? frames.length - 1] };
  }

  // --- The parts of the page ---

  /** Returns an image of several: a tile to pick it, its seed and its download. */
  #thumbnail(index) {
    const [box, caption, seed] = ["div", "p", "span"].map((tag) => document.createElement(tag));
    const download = Object.assign(document.createElement("button"), { type: "button", className: "quiet" });
    download.textContent = "Download";
    download.ariaLabel = `Download image ${index + 1}`;
    download.addEventListener("click", () => this.onDownload(this.run.images[index]));
    caption.append(seed, download);
    box.append(tile("thumbnail", `Image ${index + 1}`, () => this.onPick(index)), caption);
    return box;
  }

  #update() {
    this.#images();
    this.#filmstrip();
    this.#progress();
    this.#result();
  }

  #images() {
    const { images, chosen } = this.run;
    for (const [index, box] of [...$("thumbnails").children].entries()) {
      const { seed, blob, frames } = images[index];
      image(box, frames.at(-1));
      box.querySelector("input").checked = index === chosen;
      box.querySelector("span").textContent = seed === undefined ? "" : `Seed ${seed}`;
      box.querySelector("button").hidden = !blob;
    }
    const { frame } = this.shown;
    image($("large"), frame);
    $("shown").alt = title(this.run);
    $("empty").hidden = Boolean(frame);
  }

  #filmstrip() {
    const { images, chosen, frame, state } = this.run;
    const frames = chosen === null || isUpload(this.run) ? [] : images[chosen].frames;
    $("frames").hidden = !frames.length;
    $("replay").hidden = state === "generating" || frames.length < 2;
    fill($("filmstrip"), frames, (each, index) => tile("frame", stepText(each), () => this.#pickFrame(index)));
    for (const [index, box] of [...$("filmstrip").children].entries()) {
      image(box, frames[index]);
      box.querySelector("input").checked = index === (frame ?? frames.length - 1);
    }
    if (frame === null) $("filmstrip").scrollTop = $("filmstrip").scrollHeight;
  }

  #pickFrame(index) {
    clearInterval(this.player);
    this.#showFrame(index);
  }

  #showFrame(index) {
    const last = index === this.run.images[this.run.chosen].frames.length - 1;
    this.run.frame = last ? null : index; // null: new frames are shown as they arrive
    this.#update();
  }

  /** Plays the filmstrip, slower than a small model generates. */
  #replay() {
    clearInterval(this.player);
    const { length } = this.run.images[this.run.chosen].frames;
    let index = 0;
    this.player = setInterval(() => {
      this.#showFrame(index++);
      if (index === length) clearInterval(this.player);
    }, Math.min(160, 4000 / length));
  }

  #progress() {
    const { images, chosen, body } = this.run;
    const frame = chosen === null ? leastAdvanced(images) : this.shown.frame;
    $("bar").max = frame?.steps ?? body.steps ?? 1;
    $("bar").value = frame?.step ?? 0;
    $("progress-text").textContent = progressText(this.run, frame);
  }

  #result() {
    const { images, chosen, state, settings, note, parent, edit, first, total } = this.run;
    const { image, frame } = this.shown;
    const [oldest, latest] = [image.frames[0], image.frames.at(-1)];
    const nothing = state !== "generating" && isEmpty(this.run);
    $("hint").hidden = !nothing;
    $("result").hidden = nothing;
    $("caption").textContent = title(this.run);
    $("details").textContent = note ?? settingsText(settings);
    $("truncated").hidden = !image.isTruncated;
    const steps = latest?.step - oldest?.step;
    const perStep = steps > 0 ? (latest.at - oldest.at) / steps : undefined;
    const seed = chosen === null ? null : image.seed;
    showTimings({ "First image": duration(first), "Per step": duration(perStep), Total: duration(total), Seed: seed });

    const done = state !== "generating" && chosen !== null && frame;
    const generated = done && !isUpload(this.run);
    const showIf = (id, condition) => ($(id).hidden = !condition);
    showIf("choose", chosen === null);
    showIf("all", images.length > 1 && chosen !== null);
    showIf("edit", done && image.blob);
    for (const id of ["download", "copy-curl", "command"]) showIf(id, generated);
    showIf("copy-link", generated && !edit);
    showIf("zip", chosen === null && isComplete(this.run));
    showIf("format-setting", generated || !$("zip").hidden);
    showIf("back", done && parent);
    showIf("files", edit);
  }
}

/** Returns a radio button that is an image: the browser gives a group of them arrow keys and one tab stop. */
function tile(group, name, onPick) {
  const box = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: group, title: name, ariaLabel: name });
  input.addEventListener("change", onPick);
  const image = document.createElement("img");
  image.alt = ""; // the button has the name
  image.hidden = true;
  box.append(input, image);
  return box;
}

/** Gives an element one child per item. Existing children stay, so that one of them keeps the keyboard's focus. */
function fill(element, items, make) {
  while (element.children.length > items.length) element.lastChild.remove();
  for (const [index, item] of items.entries()) if (!element.children[index]) element.append(make(item, index));
}

/** Shows a frame in the image of a box; nothing if there is no frame yet. */
function image(box, frame) {
  const image = box.querySelector("img");
  image.hidden = !frame;
  if (frame && image.src !== urlOf(frame)) image.src = urlOf(frame);
}

/** Returns the newest frame of the image that has the fewest steps done; undefined while an image has no frame. */
function leastAdvanced(images) {
  const each = images.map(({ frames }) => frames.at(-1));
  return each.includes(undefined) ? undefined : each.reduce((a, b) => (b.step < a.step ? b : a));
}

function progressText({ state, total, frame: picked }, frame) {
  if (state === "uploaded") return "";
  if (!frame) return state === "generating" ? "Waiting for the first step" : "";
  if (picked !== null || state === "generating") return stepText(frame);
  if (state === "done") return `${frame.steps} ${frame.steps > 1 ? "steps" : "step"} in ${duration(total)}`;
  return `${state === "stopped" ? "Stopped" : "Interrupted"}. ${stepText(frame)}`;
}

function stepText({ step, steps, unmasked }) {
  return `Step ${step} of ${steps} · ${Math.round(unmasked * 100)} % of tokens unmasked`;
}

function settingsText({ steps, order, schedule, temperature, guidance }) {
  const texts = [`${steps} ${steps > 1 ? "steps" : "step"}`, `${order} order`, `${schedule} schedule`];
  return [...texts, `temperature ${temperature}`, guidance ? `guidance ${guidance}` : "no guidance"].join(", ");
}

function duration(ms) {
  if (ms === undefined) return undefined;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function showTimings(values) {
  const rows = Object.entries(values).filter(([, value]) => value !== null).map(([name, value]) => {
    const [row, dt, dd] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    dt.textContent = name;
    dd.textContent = value ?? "–";
    row.append(dt, dd);
    return row;
  });
  $("timings").replaceChildren(...rows);
}
