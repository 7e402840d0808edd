/** The runs of this tab, kept in the browser's database. Where there is none, a reload forgets them.
 *
 * Each run is a record of its own, written once. Its key begins with the tab, and a tab's with the time, so that the
 * records of a tab are in a row and those of old tabs come first. A day after a tab was opened its records are deleted,
 * unless it is this tab: it may be closed.
 */

const STORE = "runs";
const DAY_MS = 24 * 3600 * 1000;

const timeKey = (ms) => ms.toString(36).padStart(9, "0"); // in the order of time
const TAB = (sessionStorage["emage-tab"] ??= `${timeKey(Date.now())}-${crypto.getRandomValues(new Uint32Array(1))[0]}`);
let lastTime = 0;

/** Returns the key of a new run, which comes after all others of this tab. */
export function newKey() {
  lastTime = Math.max(Date.now(), lastTime + 1);
  return `${TAB}.${timeKey(lastTime)}`;
}

/** Keeps a run. */
export async function keep(run) {
  const old = timeKey(Date.now() - DAY_MS);
  await inStore((store) => {
    store.delete(IDBKeyRange.upperBound(old < TAB ? old : TAB, true));
    return store.put(packed(run));
  });
}

export async function forget(run) {
  await inStore((store) => store.delete(run.key));
}

/** Returns the runs of this tab, newest first. */
export async function restore() {
  const records = (await inStore((store) => store.getAll(IDBKeyRange.bound(`${TAB}.`, `${TAB}/`)))) ?? [];
  const runs = records.reverse();
  for (const run of runs) run.parent = runs.find(({ key }) => key === run.parent) ?? null;
  return runs;
}

/** Returns the run with this key, also if another tab has made it; undefined if it is not kept. */
export async function find(key) {
  const run = await inStore((store) => store.get(key));
  return run && { ...run, parent: null };
}

/** Returns a run without its addresses, which end with the page. */
function packed(run) {
  const withoutUrl = ({ url, ...frame }) => frame;
  const images = run.images.map((image) => ({ ...image, frames: image.frames.map(withoutUrl) }));
  const edit = run.edit && { image: run.edit.image, mask: run.edit.mask };
  return { ...run, images, edit, parent: run.parent?.key ?? null };
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
    const request = indexedDB.open("emage", 2);
    request.onupgradeneeded = ({ oldVersion }) => {
      if (oldVersion === 1) request.result.deleteObjectStore(STORE); // its records were whole tabs
      request.result.createObjectStore(STORE, { keyPath: "key" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
