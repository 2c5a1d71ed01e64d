"""Command line: `python -m halny_graphs build | quantise | compare`."""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import sys
import time
from pathlib import Path

from halny_graphs.bert import GraphOptions, build_graph
from halny_graphs.checkpoint import CheckpointError, read_checkpoint
from halny_graphs.graph import to_bytes
from halny_graphs.heads import POOLINGS


def main() -> int:
    """Runs one command; 0 where it succeeded, 2 where what was given cannot be used."""
    logging.getLogger().setLevel(logging.ERROR)
    arguments = _parser().parse_args()
    try:
        arguments.run(arguments)
    except (CheckpointError, OSError, ValueError) as error:
        return _refuse(error)
    except Exception as error:
        if type(error).__name__ == "QuantiseError":
            return _refuse(error)
        raise
    return 0


def _refuse(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="halny_graphs", description="ONNX graphs from BERT-family safetensors.")
    commands = parser.add_subparsers(required=True)
    _add_build(commands.add_parser("build", help="safetensors to an fp32 or fp16 graph"))
    _add_quantise(commands.add_parser("quantise", help="an fp32 graph to int8"))
    _add_compare(commands.add_parser("compare", help="cosine similarity and speed against fp32"))
    return parser


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_build)
    parser.add_argument("folder", type=Path, help="holds config.json and *.safetensors")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp32")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--fused", dest="fused", action="store_true", default=True, help="ONNX Runtime operators (default)"
    )
    form.add_argument("--plain", dest="fused", action="store_false", help="standard operators, as TensorRT needs")
    parser.add_argument("--pooling", choices=POOLINGS, help="default: what 1_Pooling/config.json says, else mean")
    parser.add_argument("--normalise", action="store_true", help="L2-normalise in the graph")
    parser.add_argument("--head", choices=["classify", "rerank"], help="logits of the checkpoint's classifier")
    parser.add_argument("--token-types", action="store_true", help="take token_type_ids (rerank always does)")


def _add_quantise(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_quantise)
    parser.add_argument("graph", type=Path, help="an fp32 graph")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--calibrate", type=Path, metavar="FILE", help="texts for static quantisation (plain graphs)")
    parser.add_argument("--tokenizer", type=Path, help="default: tokenizer.json beside the graph")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--full-range", action="store_true", help="8-bit weights instead of 7 (dynamic; wants VNNI)")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_compare)
    parser.add_argument("reference", type=Path, help="the fp32 graph")
    parser.add_argument("candidates", type=Path, nargs="+")
    parser.add_argument("--texts", type=Path, required=True, help="one text a line")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--tokenizer", type=Path, help="default: tokenizer.json beside the reference")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--require-mean", type=float, help="fail where the mean cosine is lower")


def _build(arguments: argparse.Namespace) -> None:
    start = time.perf_counter()
    _say(f"reading {arguments.folder}")
    checkpoint = read_checkpoint(arguments.folder)
    pairs = arguments.head == "rerank" and checkpoint.config.token_types > 1
    options = GraphOptions(
        fused=arguments.fused,
        precision=arguments.precision,
        pooling=arguments.pooling,
        normalise=arguments.normalise,
        head=arguments.head,
        token_types=arguments.token_types or pairs,
    )
    _say(f"building {checkpoint.config.layers} layers in {options.precision}")
    _write(arguments.output, to_bytes(build_graph(checkpoint, options)), start)


def _quantise(arguments: argparse.Namespace) -> None:
    # Here and not above: this import takes longer than building a graph.
    from halny_graphs.quantise import quantise_dynamic, quantise_static

    start = time.perf_counter()
    if arguments.calibrate is None:
        _say(f"quantising {arguments.graph} to int8, dynamic")
        data = quantise_dynamic(arguments.graph, full_range=arguments.full_range)
    else:
        _say(f"quantising {arguments.graph} to int8, calibrated with {arguments.calibrate}")
        tokenizer = arguments.tokenizer or arguments.graph.parent / "tokenizer.json"
        data = quantise_static(arguments.graph, tokenizer, arguments.calibrate, max_tokens=arguments.max_tokens)
    _write(arguments.output, data, start)


def _compare(arguments: argparse.Namespace) -> None:
    from halny_graphs.compare import agreement, open_graph, run_graph
    from halny_graphs.texts import load_tokenizer, spread_texts

    tokenizer = load_tokenizer(
        arguments.tokenizer or arguments.reference.parent / "tokenizer.json", arguments.max_tokens
    )
    encodings = tokenizer.encode_batch(spread_texts(arguments.texts, arguments.limit))
    if not encodings:
        raise ValueError(f"{arguments.texts} holds no text")
    expected, _ = run_graph(open_graph(arguments.reference, arguments.threads), encodings, arguments.batch)
    for path in [arguments.reference, *arguments.candidates]:
        session = open_graph(path, arguments.threads)
        run_graph(session, encodings[: arguments.batch], arguments.batch)
        found, seconds = run_graph(session, encodings, arguments.batch)
        result = agreement(expected, found)
        print(f"{path.name}: {result} per_second={len(encodings) / seconds:.0f} threads={arguments.threads}")
        if arguments.require_mean is not None and result.mean < arguments.require_mean:
            raise ValueError(f"{path.name}: mean cosine {result.mean:.6f} is below {arguments.require_mean}")


def _write(path: Path, data: bytes, start: float) -> None:
    """Replaces the file in one step: a reader sees the old graph or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)
    seconds = time.perf_counter() - start
    _say(f"{path.name}: {len(data) / 1e6:.1f} MB, sha256 {hashlib.sha256(data).hexdigest()}, {seconds:.1f} s")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
