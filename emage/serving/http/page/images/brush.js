/** The brush: marks the part of an image that is regenerated, with mouse, pen, finger or keys.
 *
 * The model regenerates whole positions of its token grid, so whole positions are marked and shown. A position is its
 * index in the grid, row by row; a point is (x, y) in units of positions from the top left corner.
 */

import { fileOf, newCanvas } from "./canvas.js";

/** The chequered pattern that means "transparent" in image editors; the image shows through a little. */
const CHEQUERS = chequers("#fffd", "#9aad", 8);

export class Brush {
  size = 2;
  erasing = false;

  constructor(canvas, announce) {
    this.canvas = canvas;
    this.announce = announce;
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.last = null));
    canvas.addEventListener("pointerleave", () => this.#setPointer(null));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    for (const change of ["focus", "blur"]) canvas.addEventListener(change, () => this.#paint());
    new ResizeObserver(() => this.#paint()).observe(canvas);
  }

  open([rows, columns]) {
    Object.assign(this, { rows, columns, positions: new Set(), history: [], cursor: 0, last: null, pointer: null });
    this.canvas.hidden = false;
    this.#paint();
  }

  close() {
    this.canvas.hidden = true;
  }

  undo() {
    if (!this.history.length) return;
    this.positions = this.history.pop();
    this.#changed();
  }

  clear() {
    this.#saveForUndo();
    this.positions = new Set();
    this.#changed();
  }

  /** Returns a PNG of the image's size that is transparent in the marked part, as OpenAI's API defines it. */
  mask(width, height) {
    const canvas = newCanvas(width, height);
    const context = canvas.getContext("2d");
    context.fillRect(0, 0, width, height);
    const size = [width / this.columns, height / this.rows];
    for (const position of this.positions) context.clearRect(...this.#box(position, ...size));
    return fileOf(canvas, "png");
  }

  // --- Mouse, pen, finger ---

  #begin(event) {
    if (event.button !== 0) return;
    event.preventDefault(); // else the browser selects text
    this.canvas.setPointerCapture(event.pointerId);
    this.#saveForUndo();
    this.last = this.#pointOf(event);
    this.#stroke(this.last);
  }

  #move(event) {
    const point = this.#pointOf(event);
    if (this.last) this.#stroke(point);
    if (event.pointerType === "mouse") this.#setPointer(point);
  }

  #pointOf(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [((event.clientX - left) / width) * this.columns, ((event.clientY - top) / height) * this.rows];
  }

  /** Marks from the last point to this one in steps of a quarter position, so that a fast stroke has no gaps. */
  #stroke([x, y]) {
    const [fromX, fromY] = this.last;
    const steps = Math.max(1, Math.ceil(Math.hypot(x - fromX, y - fromY) * 4));
    for (let i = 1; i <= steps; i++) this.#dab(fromX + ((x - fromX) * i) / steps, fromY + ((y - fromY) * i) / steps);
    this.last = [x, y];
    this.#changed();
  }

  /** Marks every position that the round brush touches; the smallest brush is the one position below the pointer. */
  #dab(x, y) {
    const radius = (this.size - 1) / 2;
    for (let row = Math.floor(y - radius); row <= y + radius; row++) {
      for (let column = Math.floor(x - radius); column <= x + radius; column++) {
        if (row < 0 || row >= this.rows || column < 0 || column >= this.columns) continue;
        const nearest = [Math.min(Math.max(x, column), column + 1), Math.min(Math.max(y, row), row + 1)];
        if (Math.hypot(nearest[0] - x, nearest[1] - y) <= radius) this.#set(row * this.columns + column, !this.erasing);
      }
    }
  }

  #setPointer(point) {
    this.pointer = point;
    this.#paint();
  }

  // --- Keys ---

  #key(event) {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    let row = Math.floor(this.cursor / this.columns);
    let column = this.cursor % this.columns;
    if (event.key in moves) {
      row = Math.min(Math.max(row + moves[event.key][0], 0), this.rows - 1);
      column = Math.min(Math.max(column + moves[event.key][1], 0), this.columns - 1);
      this.cursor = row * this.columns + column;
    } else if (event.key === " ") {
      this.#saveForUndo();
      this.#set(this.cursor, !this.positions.has(this.cursor));
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
      this.undo();
    } else return;
    event.preventDefault();
    const marked = this.positions.has(this.cursor) ? "marked" : "not marked";
    this.announce(`Row ${row + 1}, column ${column + 1}: ${marked}. ${this.positions.size} marked.`);
    this.#paint();
  }

  // --- Positions ---

  #set(position, marked) {
    if (marked) this.positions.add(position);
    else this.positions.delete(position);
  }

  #saveForUndo() {
    this.history.push(new Set(this.positions));
  }

  #changed() {
    this.#paint();
    if (!this.last) this.announce(`${this.positions.size} positions marked.`);
  }

  #box(position, width, height) {
    return [(position % this.columns) * width, Math.floor(position / this.columns) * height, width, height];
  }

  #paint() {
    if (this.canvas.hidden) return;
    const { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = clientWidth * devicePixelRatio;
    this.canvas.height = clientHeight * devicePixelRatio;
    const context = this.canvas.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    const size = [clientWidth / this.columns, clientHeight / this.rows];
    context.fillStyle = context.createPattern(CHEQUERS, "repeat");
    for (const position of this.positions) context.fillRect(...this.#box(position, ...size));
    if (this.canvas.matches(":focus-visible")) outline(context, () => context.rect(...this.#box(this.cursor, ...size)));
    if (!this.pointer) return;
    const radius = (Math.max(this.size - 1, 0.5) / 2) * size[0];
    outline(context, () => context.arc(this.pointer[0] * size[0], this.pointer[1] * size[1], radius, 0, 7));
  }
}

/** Draws a white line within a black one, which is visible on every image. */
function outline(context, shape) {
  for (const [width, colour] of [[5, "#000"], [2, "#fff"]]) {
    context.beginPath();
    shape();
    Object.assign(context, { lineWidth: width, strokeStyle: colour });
    context.stroke();
  }
}

function chequers(light, dark, side) {
  const canvas = newCanvas(2 * side, 2 * side);
  const context = canvas.getContext("2d");
  for (const [row, column] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
    context.fillStyle = row === column ? light : dark;
    context.fillRect(column * side, row * side, side, side);
  }
  return canvas;
}
