"""The graphs against a reference forward pass, in every form that the builder has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tiny_bert import Shape, config, hidden_states, logits, write_checkpoint

from halny_graphs import CheckpointError, GraphOptions, build_graph, read_checkpoint
from halny_graphs.compare import agreement
from halny_graphs.graph import to_bytes
from halny_graphs.quantise import QuantiseError, quantise_dynamic, quantise_static
from halny_graphs.texts import batches, load_tokenizer

SHAPE = Shape()
TEXTS = [[1, 5, 9, 2], [1, 2], [1, 30, 31, 32, 33, 34, 35, 36, 49, 2], [1, 7, 7, 7, 2]]
FORMS = pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])


def run(model: bytes, texts: list[list[int]], *, width: int = 0, **more: Any) -> Any:
    """The first output for a batch padded with ids that are not zero, so that a leak would show."""
    width = max(width, *(len(ids) for ids in texts))
    ids = np.full((len(texts), width), 3, np.int64)
    mask = np.zeros((len(texts), width), np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"input_ids": ids, "attention_mask": mask, **more})[0]


def build(folder: Path, **options: Any) -> bytes:
    return to_bytes(build_graph(read_checkpoint(folder), GraphOptions(**options)))


def normalised(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def cosine(left: Any, right: Any) -> Any:
    return (normalised(left) * normalised(right)).sum(axis=-1)


def mean_reference(weights: Any, shape: Shape = SHAPE) -> Any:
    return np.stack([hidden_states(weights, shape, ids).mean(axis=0) for ids in TEXTS])


@FORMS
@pytest.mark.parametrize(
    "shape",
    [Shape(), Shape(layers=1, heads=1), Shape(layers=3, heads=2, hidden=48, intermediate=96, token_types=1)],
    ids=["2x4", "1x1", "3x2"],
)
def test_mean_pooling_matches_the_reference_for_any_shape(tmp_path: Path, shape: Shape, fused: bool) -> None:
    weights = write_checkpoint(tmp_path, shape)
    found = run(build(tmp_path, fused=fused, pooling="mean", normalise=True), TEXTS)
    np.testing.assert_allclose(found, normalised(mean_reference(weights, shape)), atol=1e-5)


@FORMS
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_changes_no_result(tmp_path: Path, pooling: str, fused: bool) -> None:
    write_checkpoint(tmp_path, SHAPE)
    model = build(tmp_path, fused=fused, pooling=pooling)
    alone = np.concatenate([run(model, [ids]) for ids in TEXTS])
    np.testing.assert_allclose(run(model, TEXTS, width=20), alone, atol=1e-5)


@FORMS
def test_padding_on_the_left_is_masked_too(tmp_path: Path, fused: bool) -> None:
    write_checkpoint(tmp_path, SHAPE)
    model = build(tmp_path, fused=fused, pooling="mean")
    ids = np.array([[3, 3, *TEXTS[3]], [4, 0, *TEXTS[3]]], np.int64)
    mask = np.array([[0, 0, 1, 1, 1, 1, 1]] * 2, np.int64)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    first, second = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    np.testing.assert_allclose(first, second, atol=1e-6)


@FORMS
def test_cls_and_none_give_the_rows_of_the_last_layer(tmp_path: Path, fused: bool) -> None:
    weights = write_checkpoint(tmp_path, SHAPE)
    expected = [hidden_states(weights, SHAPE, ids) for ids in TEXTS]
    first = run(build(tmp_path, fused=fused, pooling="cls"), TEXTS)
    rows = run(build(tmp_path, fused=fused, pooling="none"), TEXTS)
    for index, states in enumerate(expected):
        np.testing.assert_allclose(first[index], states[0], atol=1e-4)
        np.testing.assert_allclose(rows[index, : len(states)], states, atol=1e-4)


@FORMS
def test_token_types_reach_the_embedding(tmp_path: Path, fused: bool) -> None:
    weights = write_checkpoint(tmp_path, SHAPE)
    types = [0, 0, 1, 1]
    model = build(tmp_path, fused=fused, pooling="none", token_types=True)
    found = run(model, TEXTS[:1], token_type_ids=np.array([types], np.int64))
    np.testing.assert_allclose(found[0], hidden_states(weights, SHAPE, TEXTS[0], types), atol=1e-4)


@FORMS
@pytest.mark.parametrize(("head", "labels"), [("classify", 3), ("rerank", 1)])
def test_logits_match_the_reference(tmp_path: Path, head: str, labels: int, fused: bool) -> None:
    shape = Shape(labels=labels)
    weights = write_checkpoint(tmp_path, shape, prefix="bert.")
    found = run(build(tmp_path, fused=fused, head=head), TEXTS)
    assert found.shape == (len(TEXTS), labels)
    np.testing.assert_allclose(found, np.stack([logits(weights, shape, ids) for ids in TEXTS]), atol=1e-4)


def test_a_prefix_of_bert_changes_nothing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "bare", SHAPE)
    write_checkpoint(tmp_path / "prefixed", SHAPE, prefix="bert.")
    assert build(tmp_path / "bare") == build(tmp_path / "prefixed")


@FORMS
def test_fp16_keeps_the_direction_and_fp32_outputs(tmp_path: Path, fused: bool) -> None:
    weights = write_checkpoint(tmp_path, SHAPE)
    found = run(build(tmp_path, fused=fused, precision="fp16", normalise=True), TEXTS)
    assert found.dtype == np.float32
    assert cosine(found, mean_reference(weights)).min() > 0.9999


@FORMS
def test_int8_dynamic_keeps_the_direction(tmp_path: Path, fused: bool) -> None:
    weights = write_checkpoint(tmp_path, SHAPE)
    source = tmp_path / "fp32.onnx"
    source.write_bytes(build(tmp_path, fused=fused))
    model = quantise_dynamic(source)
    assert b"MatMulInteger" in model
    assert cosine(run(model, TEXTS), mean_reference(weights)).min() > 0.98


def write_tokenizer(path: Path) -> None:
    """A tokenizer whose words are w0 to w49."""
    vocabulary = {f"w{index}": index for index in range(SHAPE.vocabulary)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}
    path.write_text(
        json.dumps({"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "model": model, "added_tokens": []})
    )


def test_int8_static_keeps_the_direction_of_texts_it_never_saw(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, SHAPE)
    source, texts = tmp_path / "fp32.onnx", tmp_path / "texts.txt"
    source.write_bytes(build(tmp_path, fused=False))
    write_tokenizer(tmp_path / "tokenizer.json")
    random = np.random.default_rng(3)
    texts.write_text("\n".join(" ".join(f"w{word}" for word in random.integers(1, 50, 8)) for _ in range(64)))
    model = quantise_static(source, tmp_path / "tokenizer.json", texts, max_tokens=16)
    assert b"QuantizeLinear" in model
    assert cosine(run(model, TEXTS), mean_reference(weights)).min() > 0.97


def test_static_quantisation_of_a_fused_graph_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SHAPE)
    source = tmp_path / "fp32.onnx"
    source.write_bytes(build(tmp_path, fused=True))
    with pytest.raises(QuantiseError, match="--plain"):
        quantise_static(source, tmp_path / "tokenizer.json", tmp_path / "texts.txt", max_tokens=16)


def test_the_same_weights_give_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SHAPE)
    files: list[bytes] = []
    for seed in ("1", "2"):
        environment = dict(os.environ, PYTHONHASHSEED=seed, PYTHONPATH=str(Path(__file__).parents[1]))
        command = [sys.executable, "-m", "halny_graphs"]
        source, int8 = tmp_path / f"{seed}.onnx", tmp_path / f"{seed}.int8.onnx"
        subprocess.run([*command, "build", tmp_path, "--output", source], env=environment, check=True)
        subprocess.run([*command, "quantise", source, "--output", int8], env=environment, check=True)
        files.append(source.read_bytes() + int8.read_bytes())
    assert files[0] == files[1]


def test_pooling_follows_the_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SHAPE)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    assert build(tmp_path) == build(tmp_path, pooling="cls") != build(tmp_path, pooling="mean")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"model_type": "gpt2"}, "model_type"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"num_attention_heads": 5}, "multiple"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_hidden_layers": 3}, "encoder.layer.2"),
        ({"vocab_size": 51}, "word_embeddings"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_by_name(tmp_path: Path, change: Any, complaint: str) -> None:
    write_checkpoint(tmp_path, SHAPE)
    (tmp_path / "config.json").write_text(json.dumps(config(SHAPE) | change))
    with pytest.raises(CheckpointError, match=complaint):
        build(tmp_path)


def test_a_head_without_a_classifier_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SHAPE)
    with pytest.raises(CheckpointError, match=r"classifier\.weight"):
        build(tmp_path, head="classify")


def test_a_broken_safetensors_file_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SHAPE)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="safetensors"):
        build(tmp_path)


def test_bfloat16_weights_are_read(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, SHAPE)
    header: dict[str, Any] = {}
    data = b""
    for name, value in weights.items():
        upper = (np.ascontiguousarray(value).view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(upper)],
        }
        data += upper
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert cosine(run(build(tmp_path), TEXTS), mean_reference(weights)).min() > 0.999


def test_agreement_of_a_graph_with_itself_is_one_and_with_its_opposite_minus_one() -> None:
    rows = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    assert agreement(rows, rows).worst == pytest.approx(1.0)
    assert agreement(rows, -3 * rows).mean == pytest.approx(-1.0)


def test_batches_hold_every_text_once_shortest_first(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json", 6)
    encodings = tokenizer.encode_batch([" ".join(["w1"] * count) for count in (5, 1, 9, 3, 2)])
    found = list(batches(encodings, 2, {"input_ids", "attention_mask"}))
    assert [index for rows, _ in found for index in rows] == [1, 4, 3, 0, 2]
    assert [feed["input_ids"].shape for _, feed in found] == [(1 + 1, 2), (2, 5), (1, 6)]
    assert sum(int(feed["attention_mask"].sum()) for _, feed in found) == 5 + 1 + 6 + 3 + 2


def test_compare_fails_where_the_graphs_disagree(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "one", SHAPE)
    write_checkpoint(tmp_path / "two", SHAPE, seed=8)
    texts = tmp_path / "texts.txt"
    texts.write_text("w1 w5 w9\nw2 w3\n")
    write_tokenizer(tmp_path / "one" / "tokenizer.json")
    graphs = [tmp_path / name / "graph.onnx" for name in ("one", "two")]
    for graph in graphs:
        graph.write_bytes(build(graph.parent))
    command = [sys.executable, "-m", "halny_graphs", "compare", "--texts", texts, "--require-mean", "0.99"]
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1]))
    codes = [
        subprocess.run([*command, graphs[0], candidate], env=environment, capture_output=True).returncode
        for candidate in graphs
    ]
    assert codes == [0, 2]
