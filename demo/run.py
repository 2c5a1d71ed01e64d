"""Starts the demo project, sends it real requests and shows the answers: `make demo` runs this.

With `--check` every answer is compared with what it should be, the server is stopped with SIGTERM,
and the exit code says whether all was right. Standard library only.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Any

import checks
import packages
from client import Client, Written, similarity
from serving import HERE, DemoError, Server, cache_folder, place_project, remove_unusual

import pictures

PAIR_SENTENCES = [
    "The cat sleeps on the warm roof.",
    "A kitten is napping in the sun.",
    "Interest rates were raised by the central bank.",
    "Mortgages become more expensive this year.",
]


def main() -> int:
    """0 when the demo ran, and with `--check` when every answer was right."""
    parser = argparse.ArgumentParser(description="Starts the demo project and sends it requests.")
    parser.add_argument("--binary", type=Path, required=True, help="the halny binary")
    parser.add_argument("--check", action="store_true", help="check every answer, then stop")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Whatever ends this script stops the server too.
        signal.signal(number, signal.default_int_handler)
    try:
        return run(arguments.binary, arguments.check)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(binary: Path, check: bool) -> int:
    """Starts, shows, then checks or keeps serving."""
    project, port, admin_port = place_project(cache_folder())
    say(f"starting {binary.name} with {project}")
    server = Server(binary, project, port, admin_port)
    try:
        server.wait_until_ready()
        say("where the start's time went")
        for line in server.start_times():
            print(f"  {line}")
        found, images, written = show(server.client)
        if check:
            return check_all(server, found, images, written)
        return keep_serving(server, project)
    finally:
        server.kill()
        remove_unusual(project)


def say(line: str) -> None:
    """A heading."""
    print(f"\n== {line}", flush=True)


def show(client: Client) -> tuple[dict[str, list[str]], dict[str, dict[str, Any]], Written]:
    """Sends the demo's requests and prints their answers; gives what search, images and text answered."""
    show_similarities(client)
    found = show_searches(client)
    show_packages(client)
    show_answer(client)
    show_recommendations(client)
    images = show_images(client)
    written = show_text(client)
    show_commands(client)
    return found, images, written


def show_similarities(client: Client) -> None:
    """A table: each sentence against each."""
    say("similarity of sentences (POST /v1/embeddings)")
    began = time.perf_counter()
    vectors = client.embed(PAIR_SENTENCES)
    took_ms = (time.perf_counter() - began) * 1000
    for number, (sentence, vector) in enumerate(zip(PAIR_SENTENCES, vectors), start=1):
        row = " ".join(f"{similarity(vector, other):6.2f}" for other in vectors)
        print(f"  {number} {sentence:<50} {row}")
    print(f"  {len(vectors)} vectors of {len(vectors[0])} dimensions in {took_ms:.0f} ms")


def show_searches(client: Client) -> dict[str, list[str]]:
    """The best of the demo's sentences for each query."""
    sentences = (HERE / "data" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    say(f"search in {len(sentences)} sentences")
    began = time.perf_counter()
    vectors = client.embed(sentences)
    took_s = time.perf_counter() - began
    print(f"  {len(sentences)} sentences embedded in {took_s:.2f} s, {len(sentences) / took_s:.0f} a second")
    found = {}
    for query in checks.SEARCHES:
        began = time.perf_counter()
        vector = client.embed([query])[0]
        ranked = sorted(zip(sentences, vectors), key=lambda pair: similarity(vector, pair[1]), reverse=True)[:3]
        took_ms = (time.perf_counter() - began) * 1000
        print(f"  {query!r}, {took_ms:.0f} ms")
        for sentence, other in ranked:
            print(f"    {similarity(vector, other):.2f}  {sentence}")
        found[query] = [sentence for sentence, _ in ranked]
    return found


def show_packages(client: Client) -> None:
    """Every Debian package in a collection, found by what it is for."""
    all_packages = packages.read(cache_folder() / "data" / "debian-packages.tsv")
    say(f"a collection of {len(all_packages):,} packages (PUT /collections/{packages.COLLECTION}/points)")
    new, took_s = packages.index(client, all_packages)
    if new:
        print(f"  {new:,} descriptions embedded and stored in {took_s:.0f} s, {new / took_s:.0f} a second")
    else:
        print("  all of them are there already")
    for query in checks.PACKAGES:
        began = time.perf_counter()
        found = packages.search(client, query)
        took_ms = (time.perf_counter() - began) * 1000
        print(f"  {query!r}, {took_ms:.0f} ms")
        for point in found:
            print(f"    {point['score']:.2f}  {point['payload']['name']}: {point['payload']['description']}")


def show_answer(client: Client) -> None:
    """A question answered from what is found, by the project's own route."""
    say("a question, answered from the packages that are found (POST /ask, a route of demo/halny.toml)")
    answer = packages.ask(client, checks.QUESTION)
    print(f"  {checks.QUESTION!r}")
    print(f"   {answer.text}")
    print(f"  {answer.times}")


def show_recommendations(client: Client) -> None:
    """What is recommended to a user after each look at a package."""
    say("recommendations that follow what a user looks at (POST /push, POST /recommend)")
    user = f"visitor-{time.time_ns()}"
    for query in ("edit photos", "protect a network"):
        found = packages.search(client, query, limit=1)[0]
        packages.look(client, user, found["id"])
        began = time.perf_counter()
        recommended = packages.recommend(client, user)
        took_ms = (time.perf_counter() - began) * 1000
        names = ", ".join(point["payload"]["name"] for point in recommended["packages"])
        print(f"  after a look at {found['payload']['name']}, {took_ms:.0f} ms: {names}")


def show_images(client: Client) -> dict[str, dict[str, Any]]:
    """The verdict on two drawn pictures."""
    say("images (POST /halny/v1/classify)")
    drawn = {"landscape": pictures.landscape(), "pattern": pictures.pattern()}
    results = {}
    for name, file in drawn.items():
        began = time.perf_counter()
        results[name] = client.classify(file)
        took_ms = (time.perf_counter() - began) * 1000
        scores = ", ".join(f"{label} {score:.4f}" for label, score in results[name]["scores"].items())
        print(f"  {name:<10} {results[name]['label']:<5} ({scores}), {len(file)} bytes, {took_ms:.0f} ms")
    return results


def show_text(client: Client) -> Written:
    """A text that goes on token by token."""
    say("a text, token by token (POST /v1/completions)")
    print(f"  {checks.PROMPT}", end="", flush=True)
    written = client.stream(checks.PROMPT, checks.TOKENS, lambda piece: print(piece, end="", flush=True))
    print(f"\n  first token after {written.first_s * 1000:.0f} ms, then {written.tokens_per_s():.1f} tokens a second")
    return written


def show_commands(client: Client) -> None:
    """Requests to paste into a terminal."""
    say("requests to paste")
    print(f"  curl -s {client.url}/v1/models")
    print(f"  curl -s {client.url}/v1/embeddings -H 'content-type: application/json' \\")
    print('    -d \'{"model": "minilm", "input": "hello", "dimensions": 8}\'')
    print(
        f"  curl -s '{client.url}/halny/v1/classify?model=nsfw' -H 'content-type: image/jpeg' --data-binary @photo.jpg"
    )
    print(f"  curl -sN {client.url}/v1/completions -H 'content-type: application/json' \\")
    print('    -d \'{"model": "gemma", "prompt": "Once upon a time", "max_tokens": 64, "stream": true}\'')


def check_all(
    server: Server, found: dict[str, list[str]], images: dict[str, dict[str, Any]], written: Written
) -> int:
    """Checks every kind of answer, then that SIGTERM ends the server with 0."""
    say("checks")
    all_checks = checks.Checks()
    checks.check_models(all_checks, server.client)
    checks.check_embeddings(all_checks, server.client)
    checks.check_search(all_checks, found)
    checks.check_packages(all_checks, server.client)
    checks.check_answer(all_checks, server.client)
    checks.check_recommendations(all_checks, server.client)
    checks.check_images(all_checks, images)
    checks.check_text(all_checks, server.client, written)
    checks.check_errors(all_checks, server.client)
    checks.check_page(all_checks, server.client)
    checks.check_metrics(all_checks, server.admin)
    code = server.stop(signal.SIGTERM)
    all_checks.that(code == 0, "SIGTERM ends the server with exit code 0", code)
    say("all checks passed" if all_checks.failed == 0 else f"{all_checks.failed} checks FAILED")
    return 0 if all_checks.failed == 0 else 1


def keep_serving(server: Server, project: Path) -> int:
    """Waits for Ctrl-C, SIGTERM or the server's end."""
    say(f"try it on {server.client.url}/")
    print(f"  project file: {project} (changes are applied while it runs)")
    print(f"  metrics:      {server.admin.url}/metrics")
    print("  Ctrl-C stops it", flush=True)
    try:
        code = server.process.wait()
        raise DemoError(f"the server ended by itself with exit code {code}")
    except KeyboardInterrupt:
        say("stopping")
        return server.stop(signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
