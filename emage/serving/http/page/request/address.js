/** This page's address: it names what is shown.
 *
 * A generated image is named by its request, which makes it again anywhere. Pixels of an upload or an edit are in no
 * request: `kept` names the run that this browser keeps (images/gallery.js), and `image` which of its images.
 */

/** Returns the address that has these values. */
export function link(values) {
  const url = new URL(document.baseURI);
  url.hash = new URLSearchParams(values);
  return url.href;
}

/** Returns the values in the address by name; empty if it has none. */
export function inAddress() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

/** Sets the values in the address. What is `remembered` stays over a reload, but is in no copy of the address. */
export function setAddress(values, remembered) {
  history.replaceState({ ...history.state, ...remembered }, "", link(values));
}

/** Remembers more of what is shown. */
export function remember(values) {
  history.replaceState({ ...history.state, ...values }, "");
}

/** Returns what is remembered: `isKept`, `run` and `chosen`. Empty if this page was opened by a link. */
export const remembered = () => history.state ?? {};
