/** The panel beside an image that is brushed: its buttons, and what of the page is hidden meanwhile. */

import { Brush } from "./brush.js";

const $ = (id) => document.getElementById(id);

export class BrushPanel {
  constructor(announce) {
    const brush = (this.brush = new Brush($("positions"), announce));
    const onClick = (id, listener) => $(id).addEventListener("click", listener);
    $("brush-size").addEventListener("input", () => (brush.size = $("brush-size").valueAsNumber));
    onClick("undo", () => brush.undo());
    onClick("clear", () => brush.clear());
    onClick("erase", () => {
      brush.erasing = !brush.erasing;
      $("erase").ariaPressed = String(brush.erasing);
    });
    onClick("leave", () => {
      this.close();
      $("edit").focus();
    });
  }

  get isOpen() {
    return !$("brush").hidden;
  }

  get isMarked() {
    return this.brush.positions.size > 0;
  }

  /** Opens the panel for an image of the token grid [rows, columns]. */
  open(grid) {
    this.#show(true);
    this.brush.open(grid);
  }

  /** Closes the panel. A focus within it, which would be lost, goes to the Generate button. */
  close() {
    if ($("brush").contains(document.activeElement)) $("generate").focus({ preventScroll: true });
    this.brush.close();
    this.#show(false);
  }

  #show(isOpen) {
    $("brush").hidden = !isOpen;
    $("stage").toggleAttribute("data-brushing", isOpen);
    $("generate").textContent = isOpen ? "Regenerate" : "Generate";
  }
}
