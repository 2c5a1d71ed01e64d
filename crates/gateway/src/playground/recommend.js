
/* What a user looks at, and what is recommended for it, where the project has features and a route for that. */

/** Points that count as what a user has looked at lately, the newest first. */
const LOOKS_MAX = 8;

/** The route that recommends, and the view that remembers what was looked at; nothing where the project has none. */
let recommending = null;

/** A route that takes a user alone and reads features, and a view of one key that takes pushes of `recent` ids. */
async function findRecommending() {
  const { routes } = (await ask("/halny/v1/routes")).answer;
  for (const route of routes.filter(({ steps }) => steps.some(({ kind }) => kind === "features"))) {
    const { request } = (await ask(`/halny/v1/routes/${encodeURIComponent(route.name)}/schema`)).answer;
    const needed = request.required ?? [];
    if (needed.length !== 1 || needed[0] !== "user") continue;
    const { feature_views: views } = (await ask("/halny/v1/features")).answer;
    const remembers = ({ takes_pushes: pushes, join_keys: keys, features }) =>
      pushes && keys.length === 1 && features.some(({ name, type }) => name === "recent" && type === "list<int64>");
    const view = views.find(remembers);
    if (view) return { route, view };
  }
  return null;
}

const recommendUser = () => byId("recommend-user").value.trim();

const postJson = (path, body, signal) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });

/** What is recommended for the user, and what it has looked at. */
async function recommend(signal) {
  const user = recommendUser();
  const list = byId("recommend-results");
  if (!user) {
    list.replaceChildren();
    return null;
  }
  const { answer, tookMs } = await postJson(recommending.route.path, { user }, signal);
  const points = answer.packages ?? answer.points ?? [];
  list.replaceChildren(...points.map(foundPoint));
  byId("recommend-empty").hidden = points.length > 0;
  return { tookMs, tokens: answer.looks };
}

/** A look: an event that changes what is recommended next. */
async function look(id, name) {
  const user = recommendUser();
  if (!user) return;
  const { view } = recommending;
  const [key] = view.join_keys;
  showError(byId("recommend-error"), null);
  try {
    const asked = { features: [view.name], entities: { [key.name]: [user] } };
    const { answer } = await postJson("/get-online-features", asked);
    const value = (feature) => answer.results[answer.metadata.feature_names.indexOf(feature)]?.values[0];
    const recent = [id, ...(value("recent") ?? []).filter((other) => other !== id)].slice(0, LOOKS_MAX);
    const df = { [key.name]: [user], recent: [recent] };
    // Whatever else the view holds is a count.
    for (const { name: feature } of view.features) {
      if (feature !== "recent") df[feature] = [(value(feature) ?? 0) + 1];
    }
    await postJson("/push", { push_source_name: view.name, df, to: "online_and_offline" });
    byId("recommend-said").textContent = `${user} has looked at ${name}.`;
    recommending.run();
  } catch (error) {
    showError(byId("recommend-error"), error);
  }
}

/** What a point is called: a button where a look at it is remembered. */
function called(id, name) {
  if (!recommending || !Number.isSafeInteger(id)) return element("strong", name);
  const made = element("button", name, "look");
  made.type = "button";
  made.setAttribute("aria-label", `Look at ${name}`);
  made.addEventListener("click", () => look(id, name));
  return made;
}

function showRecommendFacts(place, _, tookMs, looks) {
  const told = looks === undefined ? "" : `, from ${looks} ${looks === 1 ? "look" : "looks"}`;
  place.textContent = `Answered in ${inMs(tookMs)}${told}`;
}

async function watchRecommend() {
  try {
    recommending = await findRecommending();
  } catch {
    // A server without features shows the rest of the page.
  }
  byId("recommend-card").hidden = !recommending;
  if (!recommending) return;
  recommending.run = live({
    task: "recommend", prefix: "recommend", inputs: ["recommend-user"], results: byId("recommend-results"),
    work: recommend, clear: () => byId("recommend-results").replaceChildren(), facts: showRecommendFacts,
  });
}
