/** The runs of this tab, kept over a reload in the browser's database. Where there is none, a reload forgets them. */

const STORE = "runs";
const DAY_MS = 24 * 3600 * 1000; // after which the runs of another tab, which may be closed, are deleted

/** The key of this tab: it begins with the time, so that old ones can be deleted. */
const TAB = (sessionStorage["emage-tab"] ??= `${Date.now()}-${Math.random()}`);

/** Keeps the runs, newest first, and which of them is shown. */
export async function save(runs, shown) {
  const value = { runs: runs.map((run) => packed(run, runs)), shown: runs.indexOf(shown) };
  await inStore((store) => {
    store.delete(IDBKeyRange.upperBound(String(Date.now() - DAY_MS)));
    return store.put(value, TAB);
  });
}

/** Returns the kept runs and the one that was shown. */
export async function restore() {
  const value = await inStore((store) => store.get(TAB));
  const runs = (value?.runs ?? []).map(unpacked);
  for (const run of runs) run.parent = runs[run.parent] ?? null;
  return { runs, shown: runs[value?.shown] ?? runs[0] };
}

/** Returns a run without its addresses, which end with the page. */
function packed(run, runs) {
  const frames = (image) => image.frames.map(({ url, ...frame }) => frame);
  const images = run.images.map((image) => ({ ...image, frames: frames(image) }));
  const edit = run.edit && { image: run.edit.image, mask: run.edit.mask };
  return { ...run, images, edit, parent: runs.indexOf(run.parent) };
}

function unpacked(run) {
  for (const image of run.images) for (const frame of image.frames) frame.url = URL.createObjectURL(frame.blob);
  if (run.edit) run.edit.urls = [run.edit.image, run.edit.mask].map((blob) => URL.createObjectURL(blob));
  return run;
}

/** Returns the result of a request to the store, undefined if the browser allows no database (a private window). */
async function inStore(ask) {
  try {
    const database = await open();
    const transaction = database.transaction(STORE, "readwrite");
    const request = ask(transaction.objectStore(STORE));
    await new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
    database.close();
    return request.result;
  } catch {
    return undefined;
  }
}

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("emage", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
