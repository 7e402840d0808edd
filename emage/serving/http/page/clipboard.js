/** Copies a text for a button, which says so for a moment. Returns what to announce. */
export async function copyText(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages over plain http from another machine have no clipboard.
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const name = (button.dataset.name ??= button.textContent);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = name), 1500);
  return "Copied.";
}
