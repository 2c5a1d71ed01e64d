
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
  row.firstChild.append(element("strong", title ? payload[title] : String(id)), " ", words);
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
}

start();
