
/* Search in collections whose vectors a model makes. */

/** Answers while one types: a search takes less time than the next letter. */
const SEARCH_REST_MS = 40;

/** Results that are shown. */
const FOUND_MAX = 8;

/** Searches whose times are remembered. */
const TIMES_MAX = 200;

/** Fields of a payload that say what a point is called, the best first. */
const TITLES = ["name", "title", "id"];

/** Over HTTP, as this browser sees it. */
const times = [];

function quantile(share) {
  const sorted = [...times].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

async function search(signal) {
  const query = byId("search-query").value.trim();
  const results = byId("search-results");
  if (!query) {
    results.replaceChildren();
    return null;
  }
  const collection = encodeURIComponent(byId("search-collection").value);
  const body = JSON.stringify({ query: { text: query }, limit: FOUND_MAX, with_payload: true });
  const options = { method: "POST", headers: { "content-type": "application/json" }, body, signal };
  const { answer, tookMs } = await ask(`/collections/${collection}/points/query`, options);
  times.push(tookMs);
  if (times.length > TIMES_MAX) times.shift();
  results.replaceChildren(...answer.result.points.map(foundPoint));
  return { tookMs };
}

/** A point as a line: what it is called, what else its payload says in words, how near it is. */
function foundPoint({ id, score, payload }) {
  const fields = Object.entries(payload ?? {}).filter(([, value]) => typeof value === "string");
  const title = TITLES.find((name) => fields.some(([field]) => field === name));
  const words = fields.filter(([field]) => field !== title).map(([, value]) => value).join(" · ");
  const row = scored("li", "", score.toFixed(3), score);
  row.firstChild.append(called(id, title ? payload[title] : String(id)), " ", words);
  return row;
}

function showSearchFacts(place, _, tookMs) {
  const p95 = `P95 of ${times.length} ${times.length === 1 ? "search" : "searches"} over HTTP: ${inMs(quantile(0.95))}`;
  place.textContent = `Answered in ${inMs(tookMs)}, the text embedded; ${p95}`;
}

/** The collections that take texts. */
async function searchable() {
  const names = (await ask("/collections")).answer.result.collections.map(({ name }) => name);
  const described = await Promise.all(names.map(async (name) => {
    const { answer } = await ask(`/collections/${encodeURIComponent(name)}`);
    return { name, points: answer.result.points_count, spaces: answer.result.spaces };
  }));
  return described.filter(({ spaces }) => spaces.length);
}

/* Answers from what is found, where the project has a route for them. */

/** A route that takes a question and streams its answer; nothing where the project has none. */
async function answering() {
  const { routes } = (await ask("/halny/v1/routes")).answer;
  for (const route of routes.filter(({ streams }) => streams)) {
    const { request } = (await ask(`/halny/v1/routes/${encodeURIComponent(route.name)}/schema`)).answer;
    const needed = request.required ?? [];
    if (needed.length === 1 && needed[0] === "question") return route;
  }
  return null;
}

/** Has the question answered, and shows the text as it comes; gives when its first piece came. */
async function answerQuestion(path, question, signal) {
  const [text, facts] = [byId("answer-text"), byId("answer-facts")];
  text.textContent = "";
  facts.textContent = "";
  const began = performance.now();
  const body = JSON.stringify({ question, stream: true });
  let first = 0;
  for await (const event of events(path, { method: "POST", headers: { "content-type": "application/json" }, body, signal })) {
    if (event.text) {
      first ||= performance.now() - began;
      text.append(text.textContent ? event.text : event.text.trimStart());
    }
    if (event.steps) {
      const steps = event.steps.map(({ step, start_ms: start, end_ms: end }) => `${step} ${inMs(end - start)}`);
      facts.textContent = `First word after ${inMs(first)}; ${steps.join(", ")}`;
      return;
    }
  }
}

function watchAnswer(route) {
  const [start, stop] = [byId("answer-start"), byId("answer-stop")];
  let running = null;
  const run = async () => {
    const question = byId("search-query").value.trim();
    if (!question) return;
    running?.abort();
    const own = (running = new AbortController());
    stop.hidden = false;
    byId("answer-text").setAttribute("aria-busy", "true");
    showError(byId("answer-error"), null);
    let error = null;
    try {
      await answerQuestion(route.path, question, own.signal);
    } catch (failed) {
      if (failed.name !== "AbortError") error = failed;
    }
    if (own !== running) return;
    running = null;
    showError(byId("answer-error"), error);
    byId("answer-text").setAttribute("aria-busy", "false");
    if (document.activeElement === stop) start.focus();
    stop.hidden = true;
  };
  start.addEventListener("click", run);
  byId("search-query").addEventListener("keydown", (event) => {
    if (event.key === "Enter") run();
  });
  stop.addEventListener("click", () => running?.abort());
  byId("answer-part").hidden = false;
}

async function watchSearch() {
  let collections = [];
  try {
    collections = await searchable();
  } catch {
    // A server that keeps no vectors shows the rest of the page.
  }
  const picker = byId("search-collection");
  picker.replaceChildren(...collections.map(({ name, points }) => new Option(`${name} (${points} points)`, name)));
  byId("search-card").hidden = !collections.length;
  const run = live({
    task: "search", prefix: "search", inputs: ["search-query"], results: byId("search-results"),
    work: search, clear: () => byId("search-results").replaceChildren(), rest: SEARCH_REST_MS, facts: showSearchFacts,
  });
  picker.addEventListener("change", run);
  if (collections.length) await watchRecommend();
  const route = collections.length ? await answering() : null;
  if (route) watchAnswer(route);
}

start();
