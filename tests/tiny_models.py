"""Model folders small enough to load in milliseconds and to check by hand.

Text models are a random BERT whose forward pass `tiny_bert` computes in numpy; the tensor model is a
graph of a few operators whose answers can be written down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from halny_graphs import GraphOptions, build_graph, read_checkpoint
from halny_graphs.graph import to_bytes
from onnx import TensorProto, helper, numpy_helper
from tiny_bert import Shape, hidden_states, logits, write_checkpoint
from tokenizers import Tokenizer, models, pre_tokenizers, processors

Array = npt.NDArray[Any]

WORDS = [
    "sun",
    "rain",
    "wind",
    "snow",
    "cloud",
    "storm",
    "river",
    "lake",
    "sea",
    "shore",
    "boat",
    "fish",
    "bird",
    "tree",
    "leaf",
    "root",
    "seed",
    "bread",
    "salt",
    "milk",
    "house",
    "door",
    "roof",
    "wall",
    "stone",
    "road",
    "bridge",
    "train",
    "wheel",
    "clock",
    "paper",
    "ink",
    "song",
    "drum",
    "dance",
    "light",
    "night",
    "day",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
SHAPE = Shape(vocabulary=len(SPECIAL) + len(WORDS), positions=48)


class TinyText:
    """A random text model in a folder, and its answers computed in numpy."""

    def __init__(self, folder: Path, head: str | None = None, labels: tuple[str, ...] = (), seed: int = 7) -> None:
        self.folder, self.labels = folder, labels
        shape = Shape(vocabulary=SHAPE.vocabulary, positions=SHAPE.positions, labels=len(labels))
        self.shape = shape
        self.weights = write_checkpoint(folder, shape, seed=seed)
        config = json.loads((folder / "config.json").read_text())
        config["id2label"] = {str(number): label for number, label in enumerate(labels)}
        (folder / "config.json").write_text(json.dumps(config))
        options = GraphOptions(fused=False, pooling="mean", normalise=True, head=head, token_types=head == "rerank")
        (folder / "model.fp32.onnx").write_bytes(to_bytes(build_graph(read_checkpoint(folder), options)))
        self.tokenizer = write_tokenizer(folder / "tokenizer.json")

    def embedding(self, text: str) -> Array:
        """Mean of the last layer over all tokens, of length 1."""
        mean = hidden_states(self.weights, self.shape, self.tokenizer.encode(text).ids).mean(axis=0)
        vector: Array = mean / np.linalg.norm(mean)
        return vector

    def class_scores(self, text: str) -> Array:
        """Softmax over the labels."""
        scores = np.exp(logits(self.weights, self.shape, self.tokenizer.encode(text).ids))
        shares: Array = scores / scores.sum()
        return shares

    def relevance(self, query: str, document: str) -> float:
        """Sigmoid of the pair's only logit."""
        pair = self.tokenizer.encode(query, document)
        return float(1.0 / (1.0 + np.exp(-logits(self.weights, self.shape, pair.ids, pair.type_ids)[0])))


def write_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer of whole words that frames texts as BERT does."""
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.save(str(path))
    return tokenizer


def sentences(count: int, seed: int = 1) -> list[str]:
    """Texts of 1 to 20 known words."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, 21))) for _ in range(count)]


def write_arithmetic(folder: Path) -> None:
    """A tensor model that joins rows: one input and one output for several element types.

    `matrix` [batch, 3] FP32 is multiplied with `WEIGHTS`; `counts` INT64 gets 1 added; `flags` BOOL
    is inverted; `bytes` UINT8 is cast to FP64.
    """
    ports = {
        "matrix": (TensorProto.FLOAT, 3),
        "counts": (TensorProto.INT64, 2),
        "flags": (TensorProto.BOOL, 2),
        "bytes": (TensorProto.UINT8, 4),
    }
    results = {
        "product": (TensorProto.FLOAT, 2),
        "next": (TensorProto.INT64, 2),
        "inverted": (TensorProto.BOOL, 2),
        "wide": (TensorProto.DOUBLE, 4),
    }
    nodes = [
        helper.make_node("MatMul", ["matrix", "weights"], ["product"]),
        helper.make_node("Add", ["counts", "one"], ["next"]),
        helper.make_node("Not", ["flags"], ["inverted"]),
        helper.make_node("Cast", ["bytes"], ["wide"], to=TensorProto.DOUBLE),
    ]
    constants = [numpy_helper.from_array(WEIGHTS, "weights"), numpy_helper.from_array(np.array(1, np.int64), "one")]
    save_graph(folder, nodes, ports, results, constants)


WEIGHTS = np.array([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]], np.float32)


def write_image_classifier(folder: Path) -> None:
    """Probabilities of `dark` and `bright`: the mean level of an 8 x 8 image, and the rest."""
    ports = {"pixels": (TensorProto.FLOAT, 3, 8, 8)}
    results = {"scores": (TensorProto.FLOAT, 2)}
    axes = numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes")
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean4"], keepdims=1),
        helper.make_node("Flatten", ["mean4"], ["bright"], axis=1),
        helper.make_node("Sub", ["one", "bright"], ["dark"]),
        helper.make_node("Concat", ["dark", "bright"], ["scores"], axis=1),
    ]
    constants = [axes, numpy_helper.from_array(np.array([[1.0]], np.float32), "one")]
    save_graph(folder, nodes, ports, results, constants)
    image = {"width": 8, "height": 8, "layout": "nchw", "channels": "rgb", "resize": "bilinear", "scale": 1 / 255}
    described = {"image": image, "labels": ["dark", "bright"], "scores": "probabilities"}
    (folder / "halny-model.json").write_text(json.dumps(described))


MIRROR_SIDE, MIRROR_RESIZE_TO = 16, 18


def write_mirror(folder: Path) -> None:
    """An image classifier that has a label for each level of its input, and gives that level from 0 to 1."""
    ports = {"pixels": (TensorProto.FLOAT, MIRROR_SIDE, MIRROR_SIDE, 3)}
    count = MIRROR_SIDE * MIRROR_SIDE * 3
    nodes = [helper.make_node("Flatten", ["pixels"], ["scores"], axis=1)]
    save_graph(folder, nodes, ports, {"scores": (TensorProto.FLOAT, count)}, [])
    image = {
        "width": MIRROR_SIDE,
        "height": MIRROR_SIDE,
        "layout": "nhwc",
        "mode": "center-crop",
        "resize_to": MIRROR_RESIZE_TO,
        "scale": 1 / 255,
    }
    described = {"image": image, "labels": [str(place) for place in range(count)], "scores": "probabilities"}
    (folder / "halny-model.json").write_text(json.dumps(described))


def save_graph(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Mapping[str, tuple[int, ...]],
    constants: list[onnx.TensorProto],
) -> None:
    """Writes `model.fp32.onnx`. Ports are an element type and the dimensions behind the batch."""

    def ports(table: Mapping[str, tuple[int, ...]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, kind, ["batch", *dims]) for name, (kind, *dims) in table.items()]

    graph = helper.make_graph(nodes, "tiny", ports(inputs), ports(outputs), constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.fp32.onnx").write_bytes(made.SerializeToString())
