/** Shows a run (run.js): its images as they form, one of them large with all its frames, and what it took. */

import { isEmpty } from "./run.js";

const $ = (id) => document.getElementById(id);

export class View {
  run = null;

  constructor({ onPick, onReturn }) {
    Object.assign(this, { onPick, onReturn });
    $("replay").addEventListener("click", () => this.#replay());
  }

  /** All anew: another run, another of its images, another state. */
  show(run) {
    clearInterval(this.player);
    this.run = run;
    const several = run.images.length > 1;
    const sideBySide = several && run.chosen === null;
    $("board").classList.toggle("side-by-side", sideBySide);
    $("big").hidden = sideBySide;
    $("stage").className = run.state;
    $("candidates").hidden = !several;
    const candidate = (_, index) => tile("candidate", `Image ${index + 1}`, () => this.onPick(index));
    fill($("candidates"), several ? run.images : [], candidate);
    $("strip").replaceChildren();
    this.#update();
  }

  /** A frame or the finished image came. */
  arrived(run) {
    if (run === this.run) this.#update();
  }

  earlier(runs, enabled) {
    $("earlier").hidden = runs.length < 2;
    $("runs").replaceChildren(...runs.map((run) => {
      const box = tile("run", `${run.edit ? "Redrawn: " : ""}${run.body.prompt}`, () => this.onReturn(run));
      const input = box.querySelector("input");
      Object.assign(input, { disabled: !enabled, checked: run === this.run });
      image(box, run.images[run.chosen ?? 0].frames.at(-1)?.url);
      return box;
    }));
  }

  /** The image that is shown large, and the frame of it. */
  get shown() {
    const { images, chosen, frame } = this.run;
    const { frames } = images[chosen ?? 0];
    return { image: images[chosen ?? 0], frame: frames[frame ?? frames.length - 1] };
  }

  // --- Parts ---

  #update() {
    this.#images();
    this.#strip();
    this.#progress();
    this.#result();
  }

  #images() {
    const { images, chosen, body } = this.run;
    for (const [index, box] of [...$("candidates").children].entries()) {
      image(box, images[index].frames.at(-1)?.url);
      box.querySelector("input").checked = index === chosen;
    }
    const { frame } = this.shown;
    image($("big"), frame?.url);
    $("shown").hidden = !frame;
    $("shown").alt = body.prompt;
    $("empty").hidden = Boolean(frame);
  }

  #strip() {
    const { images, chosen, frame, state } = this.run;
    const frames = chosen === null ? [] : images[chosen].frames;
    $("frames").hidden = !frames.length;
    $("replay").hidden = state === "drawing" || frames.length < 2;
    fill($("strip"), frames, (it, index) => tile("frame", passOf(it), () => this.#look(index)));
    for (const [index, box] of [...$("strip").children].entries()) {
      image(box, frames[index].url);
      box.querySelector("input").checked = index === (frame ?? frames.length - 1);
    }
    if (frame === null) $("strip").scrollTop = $("strip").scrollHeight;
  }

  #look(index) {
    clearInterval(this.player);
    this.#to(index);
  }

  #to(index) {
    const last = index === this.run.images[this.run.chosen].frames.length - 1;
    this.run.frame = last ? null : index; // the last one goes on to the next that comes
    this.#update();
  }

  /** Slower than a small model draws: to be watched. */
  #replay() {
    clearInterval(this.player);
    const { length } = this.run.images[this.run.chosen].frames;
    let index = 0;
    this.player = setInterval(() => {
      this.#to(index++);
      if (index === length) clearInterval(this.player);
    }, Math.min(160, 4000 / length));
  }

  #progress() {
    const { images, chosen, body } = this.run;
    const frame = chosen === null ? slowest(images) : this.shown.frame;
    $("bar").max = frame?.steps ?? body.steps;
    $("bar").value = frame?.step ?? 0;
    $("pass").textContent = whereIs(this.run, frame);
  }

  #result() {
    const { images, chosen, state, body, parent, edit, first, total } = this.run;
    const { image, frame } = this.shown;
    const [oldest, latest] = [image.frames[0], image.frames.at(-1)];
    const nothing = state !== "drawing" && isEmpty(this.run);
    $("hint").hidden = !nothing;
    $("result").hidden = nothing;
    $("caption").textContent = body.prompt;
    $("cut").hidden = !image.cut;
    const passes = latest?.step - oldest?.step;
    const perPass = passes > 0 ? (latest.at - oldest.at) / passes : undefined;
    const seed = chosen === null ? null : image.seed;
    numbers({ "First frame": duration(first), "Per pass": duration(perPass), "In all": duration(total), Seed: seed });

    const done = state !== "drawing" && chosen !== null && frame;
    const has = (id, whether) => ($(id).hidden = !whether);
    has("choose", chosen === null);
    has("all", images.length > 1 && chosen !== null);
    has("redraw", done && image.blob);
    for (const id of ["download", "copy-curl", "command"]) has(id, done);
    has("copy-link", done && !edit);
    has("back", done && parent);
    has("files", edit);
    if (!frame) return;
    $("download").href = frame.url;
    const pass = frame === latest && image.blob ? "" : `-pass-${frame.step}`;
    $("download").download = `emage-${image.seed}${pass}.${frame.format}`;
  }
}

/** A radio button that is an image: a group of them has the arrow keys and one tab stop from the browser. */
function tile(group, name, onPick) {
  const box = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: group, title: name, ariaLabel: name });
  input.addEventListener("change", onPick);
  const image = document.createElement("img");
  image.alt = ""; // the name is the button's
  image.hidden = true;
  box.append(input, image);
  return box;
}

/** As many children as there are items. Those there stay, and with them the keyboard's focus. */
function fill(element, items, make) {
  while (element.children.length > items.length) element.lastChild.remove();
  for (const [index, item] of items.entries()) if (!element.children[index]) element.append(make(item, index));
}

function image(box, url) {
  const image = box.querySelector("img");
  image.hidden = !url;
  if (url && image.src !== url) image.src = url;
}

/** The newest frame of the image that is the least far; none while one has none. */
function slowest(images) {
  const each = images.map(({ frames }) => frames.at(-1));
  return each.includes(undefined) ? undefined : each.reduce((a, b) => (b.step < a.step ? b : a));
}

function whereIs({ state, total, frame: looked }, frame) {
  if (!frame) return state === "drawing" ? "Waiting for the first pass" : "";
  if (looked !== null || state === "drawing") return passOf(frame);
  if (state === "done") return `${frame.steps} ${frame.steps > 1 ? "passes" : "pass"} in ${duration(total)}`;
  return `${state === "stopped" ? "Stopped" : "Broken off"}. ${passOf(frame)}`;
}

function passOf({ step, steps, known }) {
  return `Pass ${step} of ${steps} · ${Math.round(known * 100)} % of tokens known`;
}

function duration(ms) {
  if (ms === undefined) return undefined;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function numbers(values) {
  const rows = Object.entries(values).filter(([, value]) => value !== null).map(([name, value]) => {
    const [row, dt, dd] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    dt.textContent = name;
    dd.textContent = value ?? "–";
    row.append(dt, dd);
    return row;
  });
  $("numbers").replaceChildren(...rows);
}
