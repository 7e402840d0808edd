/** Canvases, and the image files that they are written to. */

export function newCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** Returns the canvas as a file. `quality`: from 0 to 1, of JPEG and WebP. */
export function fileOf(canvas, format, quality) {
  return new Promise((resolve) => canvas.toBlob(resolve, `image/${format}`, quality));
}
