"""What `--check` expects of the demo's answers: one line each, PASS or FAIL."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

import packages
from client import Answer, Client, Written, metric, similarity


class Checks:
    """Counts expectations that were met and that were not."""

    def __init__(self) -> None:
        self.failed = 0

    def that(self, met: bool, what: str, found: object = "") -> None:
        """Prints one line; `found` is shown where the expectation was not met."""
        if met:
            print(f"PASS  {what}")
        else:
            self.failed += 1
            print(f"FAIL  {what}: {found}")


def check_embeddings(checks: Checks, client: Client) -> None:
    """Length, order of similarity, both precisions, and that batches do not mix texts up."""
    alike = ["The cat sleeps on the warm roof.", "A kitten is napping in the sun."]
    other = "The central bank raised interest rates again."
    for profile in ("default", "int8"):
        first, second, third = client.embed([*alike, other], x_halny_profile=profile)
        checks.that(len(first) == 384, f"{profile}: a vector has 384 dimensions", len(first))
        lengths = [math.sqrt(similarity(vector, vector)) for vector in (first, second, third)]
        checks.that(all(abs(length - 1) < 1e-3 for length in lengths), f"{profile}: vectors have length 1", lengths)
        near, far = similarity(first, second), similarity(first, third)
        checks.that(near > far + 0.2, f"{profile}: cat and kitten {near:.3f}, cat and bank {far:.3f}", (near, far))
    alone = [client.embed([text], x_halny_profile="default")[0] for text in [*alike, other]]
    together = client.embed([*alike, other], x_halny_profile="default")
    lowest = min(similarity(a, b) for a, b in zip(alone, together))
    checks.that(lowest > 0.9999, "a text has the same vector alone and in a batch", lowest)


def check_search(checks: Checks, found: dict[str, list[str]]) -> None:
    """`found`: each query's best sentences; a word of the right topic has to be among them."""
    for query, sentences in found.items():
        wanted = SEARCHES[query]
        met = any(re.search(wanted, sentence, re.IGNORECASE) for sentence in sentences)
        checks.that(met, f"search {query!r} finds its topic", sentences)


#: Query, and a pattern that one of its best sentences has to match.
SEARCHES = {
    "how do I bake bread": r"bread|dough|oven|flour|bak",
    "music with strings": r"guitar|violin|cello|string|orchestra|quartet",
    "protect a computer network": r"firewall|password|network|packet|encrypt|server",
}


#: Query, and a pattern that a name or description of the best packages has to match.
PACKAGES = {
    "edit photos": r"photo|image|raw|gimp|picture",
    "watch films": r"video|movie|media|film|player",
    "who uses my network": r"network|traffic|bandwidth|monitor",
}


#: A question that one of the packages answers.
QUESTION = "edit photos"


def check_answer(checks: Checks, client: Client) -> None:
    """A route embeds, searches and writes in one request, and tells the time of each step."""
    answer = packages.ask(client, QUESTION)
    checks.that(len(answer.packages) == 4, "a question is answered from four packages", answer.packages)
    checks.that(len(answer.text.split()) >= 3, f"the answer has words: {answer.text!r}", answer.text)
    steps = [part.strip().partition(";")[0] for part in answer.times.split(",")]
    checks.that(steps == ["query", "hits", "context", "answer"], f"the time of each step: {answer.times}", answer.times)


#: What a user looks at, in this order, and a pattern that what is recommended then has to match.
LOOKS = {"edit photos": r"photo|image|raw|picture|camera", "chess": r"chess"}


def check_recommendations(checks: Checks, client: Client) -> None:
    """A user who looked at nothing gets nothing; each look changes what is recommended next."""
    user = f"checker-{time.time_ns()}"
    before = packages.recommend(client, user)
    checks.that(before == {"packages": [], "recent": [], "looks": 0}, "a stranger is recommended nothing", before)
    seen: list[int] = []
    for number, (query, wanted) in enumerate(LOOKS.items(), start=1):
        package = packages.search(client, query, limit=1)[0]
        packages.look(client, user, package["id"])
        seen.insert(0, package["id"])
        after = packages.recommend(client, user)
        texts = [f"{point['payload']['name']}: {point['payload']['description']}" for point in after["packages"]]
        name = package["payload"]["name"]
        met = any(re.search(wanted, text, re.IGNORECASE) for text in texts)
        checks.that(met, f"after a look at {name} its like is recommended", texts)
        checks.that(after["recent"] == seen and after["looks"] == number, f"{number} looks are known", after["recent"])
        ids = [point["id"] for point in after["packages"]]
        checks.that(not set(ids) & set(seen), f"{name} is not recommended to who looked at it", ids)
        checks.that(after["packages"] != before["packages"], "the look changed what is recommended", texts)
        before = after


def check_packages(checks: Checks, client: Client) -> None:
    """Packages are found by what they are for, by their own descriptions, and in the order of their scores."""
    for query, wanted in PACKAGES.items():
        found = packages.search(client, query)
        texts = [f"{point['payload']['name']}: {point['payload']['description']}" for point in found]
        checks.that(any(re.search(wanted, text, re.IGNORECASE) for text in texts), f"packages to {query}", texts)
        scores = [point["score"] for point in found]
        checks.that(scores == sorted(scores, reverse=True), f"packages to {query}: the nearest comes first", scores)
    text = "real-time strategy game of ancient warfare"
    best = packages.search(client, text, limit=1)[0]
    met = best["payload"]["description"].lower().startswith(text) or best["score"] > 0.7
    checks.that(met, f"a description finds its own package: {best['payload']['name']}", best)


def check_images(checks: Checks, results: dict[str, dict[str, Any]]) -> None:
    """Scores are probabilities, and drawings are harmless."""
    for name, result in results.items():
        total = sum(result["scores"].values())
        checks.that(abs(total - 1) < 1e-3, f"scores of the {name} add up to 1", total)
        checks.that(result["label"] == "sfw", f"the {name} is labelled sfw", result)


#: A text to continue, and how far.
PROMPT = "Once upon a time, in a small village below the mountains, there lived"
TOKENS = 48
#: A text with one way to go on. Where two tokens are about as probable, the last bits of sums decide,
#: and these depend on what was known and where in the cache it lies.
_COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,"


def check_text(checks: Checks, client: Client, written: Written) -> None:
    """Text came and was counted; asked twice, the same text comes, and the prompt is read once."""
    words = written.text.split()
    checks.that(len(words) > 5, f"a text of {len(words)} words was streamed", written.text)
    first, second = client.complete(_COUNTING, TOKENS), client.complete(_COUNTING, TOKENS)
    texts = [answer["choices"][0]["text"] for answer in (first, second)]
    checks.that(" 14, 15, 16," in texts[0], "a model that is shown how counts on", texts[0])
    checks.that(texts[0] == texts[1], "equal requests at temperature 0 get equal texts", texts)
    usages = {"streamed": written.usage or {}, "first": first["usage"], "second": second["usage"]}
    for name, usage in usages.items():
        read, wrote = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        right = read > 5 and 0 < wrote <= TOKENS and usage.get("total_tokens") == read + wrote
        checks.that(right, f"usage, {name}: {read} tokens were read and {wrote} written", usage)
    read, known = (usages["second"].get(key) for key in ("prompt_tokens", "prompt_tokens_details"))
    # The last token of a prompt is computed each time: what follows it is what is asked for.
    checks.that(
        known == {"cached_tokens": read - 1}, f"{read - 1} of {read} tokens of a known prompt are not read again", known
    )


def check_models(checks: Checks, client: Client) -> None:
    """All models answer and name the digest of their files."""
    models = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    checks.that(models.keys() == {"minilm", "nsfw", "gemma"}, "all three models are listed", list(models))
    for name, model in models.items():
        version = model["version"]
        met = re.fullmatch(r"[0-9a-f]{64}", version) is not None
        checks.that(met, f"version of {name} is a SHA-256: {version[:12]}", version)


def check_errors(checks: Checks, client: Client) -> None:
    """Errors have OpenAI's shape and the status that says whose fault it was."""
    for what, request, status in [
        ("an unknown model", {"model": "nothing", "input": "text"}, 404),
        ("no input", {"model": "minilm", "input": []}, 400),
        ("a negative dimension", {"model": "minilm", "input": "text", "dimensions": -1}, 400),
        ("a model that does something else", {"model": "gemma", "input": "text"}, 400),
    ]:
        answer = client.post("/v1/embeddings", json.dumps(request).encode())
        checks.that(_is_error(answer, status), f"{what} is refused with {status}", answer)
    answer = client.post("/halny/v1/classify?model=nsfw", b"no image", "image/png")
    checks.that(_is_error(answer, 400), "bytes that are no image are refused with 400", answer)


def _is_error(answer: Answer, status: int) -> bool:
    if answer.status != status:
        return False
    error = answer.json().get("error", {})
    return {"message", "type", "param", "code"} <= error.keys() and bool(error["message"])


def check_metrics(checks: Checks, admin: Client) -> None:
    """What was asked above has been counted."""
    text = admin.get("/metrics").body.decode()
    for name in (
        "halny_http_requests_total",
        "halny_lane_finished_items_total",
        "halny_device_seconds_total",
        "halny_generation_written_tokens_total",
        "vllm:generation_tokens_total",
        "halny_feature_values_total",
        "halny_feature_pushed_rows_total",
    ):
        value = metric(text, name)
        checks.that(value > 0, f"{name} is {value:g}", value)


def check_page(checks: Checks, client: Client) -> None:
    """The page is served whole, under a policy."""
    answer = client.get("/", accept="text/html")
    parts = (b"similarity-value", b"image-file", b"generate-prompt", b"search-query", b"recommend-user")
    met = answer.status == 200 and all(part in answer.body for part in parts)
    checks.that(met, f"the page is served, {len(answer.body)} bytes", answer.status)
