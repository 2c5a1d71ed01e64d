"use strict";

const byId = (id) => document.getElementById(id);

/** How long typing has to rest before a request goes out. */
const TYPING_REST_MS = 200;

/** Lines of a list that are ranked at most; one request takes no more than the server allows. */
const LINES_MAX = 64;

let models = [];

/* Asking the server. */

/** Sends a request; gives its JSON and how long it took, or throws an error in words. */
async function ask(path, options) {
  const began = performance.now();
  const response = await send(path, options);
  const body = await response.text();
  const tookMs = performance.now() - began;
  if (!response.ok) throw new Error(words(response, body));
  return { answer: JSON.parse(body), tookMs };
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Is it still running?");
  }
}

/** Sends a request whose answer is a stream of events; gives the JSON of each as it comes. */
async function* events(path, options) {
  const response = await send(path, options);
  if (!response.ok) throw new Error(words(response, await response.text()));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = ""; ;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The connection broke. Is the server still running?");
    }
    if (piece.done) throw new Error("The answer broke off before its end.");
    const whole = (held + piece.value).split("\n");
    held = whole.pop();
    for (const line of whole) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice("data: ".length);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(sentence(event.error.message));
      yield event;
    }
  }
}

/** What an error answer says, in any of the server's error shapes. */
function words(response, body) {
  let said = "";
  try {
    const read = JSON.parse(body);
    // Feast's errors are texts of JSON.
    const json = typeof read === "string" ? JSON.parse(read) : read;
    said = (json.error && json.error.message) || json.message || json.detail || json.error || json.status?.error || "";
  } catch {
    said = "";
  }
  const retry = response.headers.get("retry-after");
  const hint = retry ? ` (try again in ${retry} s)` : "";
  return said ? sentence(said) + hint : `The server answered ${response.status} ${response.statusText}${hint}.`;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

/** A POST of JSON, or of a file, to a model under the profile that is chosen. */
function post(task, body, signal, type = "application/json") {
  const headers = { "content-type": type };
  const profile = byId(`${task}-profile`).value;
  if (profile) headers["x-halny-profile"] = profile;
  return { method: "POST", headers, body: body instanceof Blob ? body : JSON.stringify(body), signal };
}

/* Showing answers. */

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function bar(share) {
  const made = element("div", undefined, "bar");
  made.setAttribute("aria-hidden", "true");
  made.append(element("i"));
  made.firstChild.style.width = percent(share);
  return made;
}

const percent = (share) => `${(Math.max(0, Math.min(1, share)) * 100).toFixed(1)}%`;

function scored(tag, text, number, share) {
  const row = element(tag);
  row.append(element("span", text), element("b", number), bar(share));
  return row;
}

function showFacts(place, task, tookMs, tokens) {
  const parts = [`Answered in ${inMs(tookMs)}`];
  if (tokens !== undefined) parts.push(`${tokens} tokens`);
  place.replaceChildren(`${parts.join(", ")}, version `, versionOf(task));
}

const inMs = (tookMs) => `${tookMs < 10 ? tookMs.toFixed(1) : Math.round(tookMs)} ms`;

function versionOf(task) {
  const { version } = chosen(task);
  const shown = element("code", version.slice(0, 12));
  shown.title = version;
  return shown;
}

function showError(place, error) {
  place.textContent = error ? error.message : "";
  place.hidden = !error;
}

/* One part of the page: what it watches, what it asks, where it shows the answer. */

/** Runs `work` when an input rests or changes; a newer run ends an older one. */
function live({ task, inputs, prefix, results, work, clear, rest = TYPING_REST_MS, facts: show = showFacts }) {
  let timer = 0;
  let running = null;
  const error = byId(`${prefix}-error`);
  const facts = byId(`${prefix}-facts`);
  async function run() {
    if (running) running.abort();
    const own = (running = new AbortController());
    results.classList.add("busy");
    try {
      const done = await work(own.signal);
      if (own !== running) return;
      showError(error, null);
      if (done) show(facts, task, done.tookMs, done.tokens);
      else facts.textContent = "";
    } catch (failed) {
      if (own !== running || failed.name === "AbortError") return;
      clear();
      facts.textContent = "";
      showError(error, failed);
    } finally {
      if (own === running) results.classList.remove("busy");
    }
  }
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(run, rest);
  };
  inputs.forEach((id) => byId(id).addEventListener("input", later));
  [`${task}-model`, `${task}-profile`].forEach((id) => byId(id)?.addEventListener("change", run));
  return run;
}

const chosen = (task) => models.find((model) => model.id === byId(`${task}-model`).value);

const lines = (id) => byId(id).value.split("\n").map((line) => line.trim()).filter(Boolean).slice(0, LINES_MAX);

/* Embeddings. */

async function embed(texts, signal) {
  const body = { model: byId("embed-model").value, input: texts };
  const { answer, tookMs } = await ask("/v1/embeddings", post("embed", body, signal));
  return { vectors: answer.data.map((one) => one.embedding), tookMs, tokens: answer.usage.total_tokens };
}

function cosine(a, b) {
  let dot = 0, ofA = 0, ofB = 0;
  for (let i = 0; i < a.length; i += 1) {
    dot += a[i] * b[i];
    ofA += a[i] * a[i];
    ofB += b[i] * b[i];
  }
  return ofA && ofB ? dot / Math.sqrt(ofA * ofB) : 0;
}

function inWords(similarity) {
  if (similarity > 0.8) return "nearly the same meaning";
  if (similarity > 0.5) return "close in meaning";
  if (similarity > 0.25) return "loosely related";
  return "about different things";
}

function showSimilarity(similarity) {
  const known = similarity !== null;
  byId("similarity-value").textContent = known ? similarity.toFixed(3) : "–";
  byId("similarity-words").textContent = known ? `cosine similarity: ${inWords(similarity)}` : "cosine similarity";
  const meter = byId("similarity-bar");
  meter.setAttribute("aria-valuenow", known ? similarity.toFixed(3) : "0");
  meter.firstElementChild.style.width = percent(known ? similarity : 0);
}

async function comparePair(signal) {
  const texts = ["embed-a", "embed-b"].map((id) => byId(id).value.trim());
  if (texts.some((text) => !text)) {
    showSimilarity(null);
    return null;
  }
  const done = await embed(texts, signal);
  showSimilarity(cosine(done.vectors[0], done.vectors[1]));
  return done;
}

async function rankLines(signal) {
  const query = byId("rank-query").value.trim();
  const sentences = lines("rank-lines");
  const results = byId("rank-results");
  if (!query || !sentences.length) {
    results.replaceChildren();
    return null;
  }
  const done = await embed([query, ...sentences], signal);
  const ranked = sentences
    .map((text, index) => ({ text, similarity: cosine(done.vectors[0], done.vectors[index + 1]) }))
    .sort((left, right) => right.similarity - left.similarity);
  results.replaceChildren(...ranked.map(({ text, similarity }) => scored("li", text, similarity.toFixed(3), similarity)));
  return done;
}

/* Classification. */

function showScores(prefix, result) {
  const scores = Object.entries(result.scores).sort((left, right) => right[1] - left[1]).slice(0, 10);
  byId(`${prefix}-verdict`).textContent = `${result.label}: ${(result.scores[result.label] * 100).toFixed(1)} %`;
  byId(`${prefix}-scores`).replaceChildren(
    ...scores.map(([label, score]) => scored("div", label, score.toFixed(3), score)));
}

function clearScores(prefix) {
  byId(`${prefix}-verdict`).textContent = "";
  byId(`${prefix}-scores`).replaceChildren();
}

let image = null;

async function classifyImage(signal) {
  if (!image) return null;
  const path = `/halny/v1/classify?model=${encodeURIComponent(byId("image-model").value)}`;
  const type = image.type.startsWith("image/") ? image.type : "application/octet-stream";
  const { answer, tookMs } = await ask(path, post("image", image, signal, type));
  showScores("image", answer.results[0]);
  return { tookMs };
}

function showImage(blob) {
  const preview = byId("image-preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  image = blob;
  preview.src = URL.createObjectURL(blob);
  preview.hidden = false;
  byId("image-hint").hidden = true;
}

/** Hills under a sky, so that there is an image to try without looking for one. */
function drawExample() {
  const canvas = document.createElement("canvas");
  canvas.width = 480;
  canvas.height = 320;
  const pen = canvas.getContext("2d");
  const sky = pen.createLinearGradient(0, 0, 0, 320);
  sky.addColorStop(0, "#5aa9d6");
  sky.addColorStop(1, "#f6e2b3");
  pen.fillStyle = sky;
  pen.fillRect(0, 0, 480, 320);
  pen.fillStyle = "#fff4c2";
  pen.beginPath();
  pen.arc(370, 80, 34, 0, 2 * Math.PI);
  pen.fill();
  [["#7b9c86", 190, 40], ["#4e7a62", 230, 28], ["#2f5a46", 270, 20]].forEach(([colour, base, height], ridge) => {
    pen.fillStyle = colour;
    pen.beginPath();
    pen.moveTo(0, 320);
    for (let x = 0; x <= 480; x += 8) {
      pen.lineTo(x, base - height * (Math.sin(x / 60 + ridge * 2) + 0.4 * Math.sin(x / 17 + ridge)));
    }
    pen.lineTo(480, 320);
    pen.fill();
  });
  // Not `toBlob`: browsers put that off until they are idle, which on a busy machine takes seconds.
  const [, base64] = canvas.toDataURL("image/png").split(",");
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

function watchImage(run) {
  const drop = byId("image-drop");
  const take = (file) => {
    if (!file) return;
    showImage(file);
    run();
  };
  byId("image-file").addEventListener("change", (event) => take(event.target.files[0]));
  byId("image-sample").addEventListener("click", () => take(drawExample()));
  byId("image-preview").addEventListener("error", () => {
    byId("image-preview").hidden = true;
    byId("image-hint").hidden = false;
  });
  ["dragenter", "dragover"].forEach((name) => drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  }));
  ["dragleave", "drop"].forEach((name) => drop.addEventListener(name, () => drop.classList.remove("over")));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
}

async function classifyText(signal) {
  const text = byId("text-input").value.trim();
  if (!text) {
    clearScores("text");
    return null;
  }
  const body = { model: byId("text-model").value, input: text };
  const { answer, tookMs } = await ask("/halny/v1/classify", post("text", body, signal));
  showScores("text", answer.results[0]);
  return { tookMs };
}

/* Reranking. */

async function rerank(signal) {
  const query = byId("rerank-query").value.trim();
  const documents = lines("rerank-lines");
  const results = byId("rerank-results");
  if (!query || !documents.length) {
    results.replaceChildren();
    return null;
  }
  const body = { model: byId("rerank-model").value, query, documents };
  const { answer, tookMs } = await ask("/v1/rerank", post("rerank", body, signal));
  results.replaceChildren(...answer.results.map(({ index, relevance_score: score }) =>
    scored("li", documents[index], score.toFixed(3), score)));
  return { tookMs, tokens: answer.usage.total_tokens };
}

/* Text, token by token. */

/** The request for a text, and what an event of its answer adds. */
function asked() {
  const prompt = byId("generate-prompt").value;
  const number = (id) => byId(id).valueAsNumber;
  const body = {
    model: byId("generate-model").value,
    // A field that is empty has no number: it goes out as null, which leaves it to the server.
    max_tokens: number("generate-tokens"), temperature: number("generate-temperature"),
    stream: true, stream_options: { include_usage: true },
  };
  if (byId("generate-form").value === "chat") {
    const messages = [{ role: "user", content: prompt }];
    return { path: "/v1/chat/completions", body: { ...body, messages }, begun: "", added: (choice) => choice.delta.content };
  }
  return { path: "/v1/completions", body: { ...body, prompt }, begun: prompt, added: (choice) => choice.text };
}

/** Time to the first token, and tokens a second from then on. */
class Pace {
  began = performance.now();
  first = 0;
  last = 0;
  tokens = 0;
  usage = null;

  /** A piece of text is a token, but for characters that take several: the server's count, which comes last, is exact. */
  piece() {
    this.last = performance.now();
    this.first ||= this.last;
    this.tokens += 1;
  }

  words() {
    if (!this.tokens) return "";
    const tokens = this.usage ? this.usage.completion_tokens : this.tokens;
    const parts = [`First token after ${inMs(this.first - this.began)}`];
    if (this.last > this.first) parts.push(`${((tokens - 1) / (this.last - this.first) * 1000).toFixed(1)} tokens a second`);
    parts.push(`${tokens} tokens`);
    const known = this.usage?.prompt_tokens_details?.cached_tokens;
    if (known) parts.push(`${known} of the prompt's ${this.usage.prompt_tokens} were known`);
    return parts.join(", ");
  }
}

/** Has the text written on, and shows each piece of it as it comes. */
async function generate(signal, pace) {
  const { path, body, begun, added } = asked();
  const [text, facts] = [byId("generate-text"), byId("generate-facts")];
  byId("generate-begun").textContent = begun;
  text.textContent = "";
  facts.textContent = "";
  for await (const event of events(path, post("generate", body, signal))) {
    if (event.usage) pace.usage = event.usage;
    const more = event.choices.length ? added(event.choices[0]) : "";
    if (!more) continue;
    pace.piece();
    text.append(more);
    facts.textContent = pace.words();
  }
}

function watchGenerate() {
  const [start, stop] = [byId("generate-start"), byId("generate-stop")];
  let running = null;
  start.addEventListener("click", async () => {
    running?.abort();
    const own = (running = new AbortController());
    const pace = new Pace();
    stop.hidden = false;
    byId("generate-results").setAttribute("aria-busy", "true");
    showError(byId("generate-error"), null);
    let error = null;
    try {
      await generate(own.signal, pace);
    } catch (failed) {
      // Stopped by whoever reads: what was written stays.
      if (failed.name !== "AbortError") error = failed;
    }
    if (own !== running) return;
    running = null;
    showError(byId("generate-error"), error);
    if (pace.tokens) byId("generate-facts").replaceChildren(`${pace.words()}, version `, versionOf("generate"));
    byId("generate-results").setAttribute("aria-busy", "false");
    if (document.activeElement === stop) start.focus();
    stop.hidden = true;
  });
  stop.addEventListener("click", () => running?.abort());
  const offerChat = () => {
    const chat = byId("generate-form").options[1];
    chat.disabled = !chosen("generate").chat;
    if (chat.disabled) byId("generate-form").value = "text";
  };
  byId("generate-model").addEventListener("change", offerChat);
  if (chosen("generate")) offerChat();
}

/* The models. */

const TASKS = {
  generate: "generate", embed: "embed", image: "classify-image", text: "classify-text", rerank: "rerank",
};

function fillProfiles(task) {
  const profiles = chosen(task).profiles;
  const options = profiles.map((profile) =>
    new Option(`${profile.name} (${profile.precision}, ${profile.device})`, profile.name));
  if (profiles.length > 1) options.unshift(new Option("the first that has room", ""));
  byId(`${task}-profile`).replaceChildren(...options);
}

function fillPickers() {
  const shown = [];
  for (const [task, kind] of Object.entries(TASKS)) {
    const names = models.filter((model) => model.task === kind).map((model) => model.id);
    if (!names.length) continue;
    const picker = byId(`${task}-model`);
    picker.replaceChildren(...names.map((name) => new Option(name, name)));
    // Before the part's own listener: that one sends the profile.
    picker.addEventListener("change", () => fillProfiles(task));
    fillProfiles(task);
    byId(`${task}-card`).hidden = false;
    shown.push(task);
  }
  return shown;
}

function fillTable() {
  byId("models-rows").replaceChildren(...models.map((model) => {
    const row = element("tr");
    const name = element("th", model.id);
    name.scope = "row";
    const version = element("td");
    version.append(element("code", model.version));
    const profiles = model.profiles.map((profile) => `${profile.name}: ${profile.precision} on ${profile.device}`);
    row.append(name, element("td", model.task), element("td", profiles.join("; ")), version);
    return row;
  }));
  byId("models-card").hidden = !models.length;
}

function watch() {
  const list = (id) => () => byId(id).replaceChildren();
  return {
    embed: [
      live({
        task: "embed", prefix: "pair", inputs: ["embed-a", "embed-b"], results: byId("similarity-value"),
        work: comparePair, clear: () => showSimilarity(null),
      }),
      live({
        task: "embed", prefix: "rank", inputs: ["rank-query", "rank-lines"], results: byId("rank-results"),
        work: rankLines, clear: list("rank-results"),
      }),
    ],
    image: [
      live({
        task: "image", prefix: "image", inputs: [], results: byId("image-scores"),
        work: classifyImage, clear: () => clearScores("image"),
      }),
    ],
    text: [
      live({
        task: "text", prefix: "text", inputs: ["text-input"], results: byId("text-scores"),
        work: classifyText, clear: () => clearScores("text"),
      }),
    ],
    rerank: [
      live({
        task: "rerank", prefix: "rerank", inputs: ["rerank-query", "rerank-lines"], results: byId("rerank-results"),
        work: rerank, clear: list("rerank-results"),
      }),
    ],
  };
}

async function start() {
  const status = byId("status");
  try {
    models = (await ask("/v1/models")).answer.data;
  } catch (error) {
    status.className = "status failed";
    status.textContent = error.message;
    return;
  }
  status.className = "status ready";
  const count = models.length === 1 ? "One model answers" : `${models.length} models answer`;
  status.textContent = models.length ? `${count} on ${location.host}.` : "No model is loaded yet. Reload this page once one is.";
  fillTable();
  const shown = fillPickers();
  const runs = watch();
  watchImage(runs.image[0]);
  watchGenerate();
  await watchSearch();
  // An image has to be chosen, and text costs more than the others: both wait to be asked.
  shown.filter((task) => task !== "image" && task !== "generate").forEach((task) => runs[task].forEach((run) => run()));
  recommending?.run();
}
