/** Choosing the cells of an image that are regenerated: with mouse, pen, finger or keys.
 *
 * The model redraws whole cells of its token grid, so whole cells are what is marked and shown. A place is (x, y) in
 * cells from the top left corner, a cell its number in rows.
 */

/** The checks that stand for nothing in image editors; the image shines through a little. */
const CHECKS = checks("#fffd", "#9aad", 8);

export class Brush {
  size = 2;
  erasing = false;

  constructor(canvas, say) {
    this.canvas = canvas;
    this.say = say;
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.last = null));
    canvas.addEventListener("pointerleave", () => this.#point(null));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    for (const change of ["focus", "blur"]) canvas.addEventListener(change, () => this.#paint());
    new ResizeObserver(() => this.#paint()).observe(canvas);
  }

  open([rows, columns]) {
    Object.assign(this, { rows, columns, cells: new Set(), before: [], cursor: 0, last: null, at: null });
    this.canvas.hidden = false;
    this.#paint();
  }

  close() {
    this.canvas.hidden = true;
  }

  undo() {
    if (!this.before.length) return;
    this.cells = this.before.pop();
    this.#changed();
  }

  clear() {
    this.#remember();
    this.cells = new Set();
    this.#changed();
  }

  /** A PNG of the image's size, transparent where it is regenerated: the form that OpenAI's API has. */
  mask(width, height) {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.fillRect(0, 0, width, height);
    for (const cell of this.cells) context.clearRect(...this.#box(cell, width / this.columns, height / this.rows));
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  // --- Mouse, pen, finger ---

  #begin(event) {
    if (event.button !== 0) return;
    event.preventDefault(); // no selecting of text
    this.canvas.setPointerCapture(event.pointerId);
    this.#remember();
    this.last = this.#place(event);
    this.#stroke(this.last);
  }

  #move(event) {
    const place = this.#place(event);
    if (this.last) this.#stroke(place);
    if (event.pointerType === "mouse") this.#point(place);
  }

  #place(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [((event.clientX - left) / width) * this.columns, ((event.clientY - top) / height) * this.rows];
  }

  /** From the last place to this one in steps of a quarter cell: a fast hand leaves no gaps. */
  #stroke([x, y]) {
    const [fromX, fromY] = this.last;
    const steps = Math.max(1, Math.ceil(Math.hypot(x - fromX, y - fromY) * 4));
    for (let i = 1; i <= steps; i++) this.#dab(fromX + ((x - fromX) * i) / steps, fromY + ((y - fromY) * i) / steps);
    this.last = [x, y];
    this.#changed();
  }

  /** Marks every cell that the round brush touches; the smallest brush is the one cell below the pointer. */
  #dab(x, y) {
    const radius = (this.size - 1) / 2;
    for (let row = Math.floor(y - radius); row <= y + radius; row++) {
      for (let column = Math.floor(x - radius); column <= x + radius; column++) {
        if (row < 0 || row >= this.rows || column < 0 || column >= this.columns) continue;
        const near = [Math.min(Math.max(x, column), column + 1), Math.min(Math.max(y, row), row + 1)];
        if (Math.hypot(near[0] - x, near[1] - y) <= radius) this.#set(row * this.columns + column, !this.erasing);
      }
    }
  }

  #point(place) {
    this.at = place;
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
      this.#remember();
      this.#set(this.cursor, !this.cells.has(this.cursor));
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
      this.undo();
    } else return;
    event.preventDefault();
    const marked = this.cells.has(this.cursor) ? "marked" : "not marked";
    this.say(`Row ${row + 1}, column ${column + 1}: ${marked}. ${this.cells.size} marked.`);
    this.#paint();
  }

  // --- Cells ---

  #set(cell, marked) {
    if (marked) this.cells.add(cell);
    else this.cells.delete(cell);
  }

  #remember() {
    this.before.push(new Set(this.cells));
  }

  #changed() {
    this.#paint();
    if (!this.last) this.say(`${this.cells.size} cells marked.`);
  }

  #box(cell, width, height) {
    return [(cell % this.columns) * width, Math.floor(cell / this.columns) * height, width, height];
  }

  #paint() {
    if (this.canvas.hidden) return;
    const { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = clientWidth * devicePixelRatio;
    this.canvas.height = clientHeight * devicePixelRatio;
    const context = this.canvas.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    const size = [clientWidth / this.columns, clientHeight / this.rows];
    context.fillStyle = context.createPattern(CHECKS, "repeat");
    for (const cell of this.cells) context.fillRect(...this.#box(cell, ...size));
    if (this.canvas.matches(":focus-visible")) outline(context, () => context.rect(...this.#box(this.cursor, ...size)));
    if (!this.at) return;
    const radius = (Math.max(this.size - 1, 0.5) / 2) * size[0];
    outline(context, () => context.arc(this.at[0] * size[0], this.at[1] * size[1], radius, 0, 7));
  }
}

/** White within black: seen on every image. */
function outline(context, shape) {
  for (const [width, colour] of [[5, "#000"], [2, "#fff"]]) {
    context.beginPath();
    shape();
    Object.assign(context, { lineWidth: width, strokeStyle: colour });
    context.stroke();
  }
}

function checks(light, dark, side) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 2 * side;
  const context = canvas.getContext("2d");
  for (const [row, column] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
    context.fillStyle = row === column ? light : dark;
    context.fillRect(column * side, row * side, side, side);
  }
  return canvas;
}
