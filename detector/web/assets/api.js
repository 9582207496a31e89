/** Asking the daemon: JSON over HTTP with the token, and the stream of what happens now. */

const TOKEN = "offnominal.token";
/** Without a word for so long the stream is dead (ms): one comes each second. */
const SILENT_FOR = 10_000;
/** Between two attempts to connect (ms): doubled each time up to the second. */
const [FIRST_PAUSE, LONGEST_PAUSE] = [500, 10_000];

/** What the daemon refused, in its own words; `status` 0 where it was not reached. */
export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

let askForToken = async () => {};
let asking = null;

/** Who is asked for a token when the daemon wants one: `show(refused)` settles once `give` was called. */
export function onTokenWanted(show) {
  askForToken = show;
}

/** From now on this token is sent. */
export const give = (token) => sessionStorage.setItem(TOKEN, token);

/** Takes the token out of `#token=…`, so that it stays neither in the address nor in the history. */
export function takeToken() {
  const found = /^#token=([^&]*)&?(.*)$/s.exec(location.hash);
  if (!found) return;
  give(decodeURIComponent(found[1]));
  history.replaceState(null, "", found[2] ? `#${found[2].replace(/^#/, "")}` : location.pathname + location.search);
}

async function request(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const answer = await fetch(`api/${path}`, { ...options, headers, cache: "no-store" }).catch((error) => {
    throw error.name === "AbortError" ? error : new ApiError(0, "The daemon is not reached.");
  });
  if (answer.status === 401) {
    if (token === sessionStorage.getItem(TOKEN)) {
      asking ??= askForToken(Boolean(token)).finally(() => (asking = null));
      await asking;
    }
    return request(path, options);
  }
  if (!answer.ok) throw new ApiError(answer.status, await detail(answer));
  return answer;
}

async function detail(answer) {
  const told = await answer.json().catch(() => ({}));
  return typeof told.detail === "string" ? told.detail : `The daemon answered ${answer.status} ${answer.statusText}.`;
}

/** The answer to a question. Raises `ApiError`. */
export async function get(path, params = {}, signal = undefined) {
  const query = new URLSearchParams(params).toString();
  return (await request(query ? `${path}?${query}` : path, { signal })).json();
}

/** What an action came to. Raises `ApiError`. */
export async function post(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  return (await request(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/**
 * Something asked for again and again: what was there stays until there is an answer, and one that comes after a newer
 * question is dropped. `changed` is called whenever there is something else to show.
 */
export function resource(changed) {
  let aborter = null;
  let answered = "";
  const it = { data: null, error: null, close: () => aborter?.abort() };
  it.load = async (ask, asked = "") => {
    aborter?.abort();
    const mine = (aborter = new AbortController());
    try {
      const data = await ask(mine.signal);
      if (mine !== aborter) return;
      answered = asked;
      Object.assign(it, { data, error: null });
    } catch (error) {
      if (mine !== aborter || error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      Object.assign(it, { error, data: asked === answered ? it.data : null }); // no answer to another question
    }
    changed();
  };
  return it;
}

/** Follows what happens for as long as the page is open: `told(now)` each second, `state(live)` as it comes and goes. */
export async function follow(told, state) {
  for (let pause = FIRST_PAUSE; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    try {
      for await (const now of events()) {
        pause = FIRST_PAUSE;
        state(true);
        told(now);
      }
    } catch (error) {
      if (!(error instanceof ApiError || error instanceof TypeError || error.name === "AbortError")) throw error;
    }
    state(false);
    await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random())));
  }
}

/** The `now` events of one connection. */
async function* events() {
  const aborter = new AbortController();
  let timer = setTimeout(() => aborter.abort(), SILENT_FOR);
  try {
    const answer = await request("live", { signal: aborter.signal, headers: { Accept: "text/event-stream" } });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      clearTimeout(timer);
      timer = setTimeout(() => aborter.abort(), SILENT_FOR);
      const blocks = (rest + part.value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) if (/^event: ?now$/m.test(block)) yield JSON.parse(block.match(/^data: ?(.*)$/m)[1]);
    }
  } finally {
    clearTimeout(timer);
    aborter.abort();
  }
}
