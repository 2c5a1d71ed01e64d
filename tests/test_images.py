"""The image classifier against a bare ONNX Runtime run over the same graph, prepared with Pillow.

What is resized has Pillow's levels, and so have PNG and WebP; of a JPEG the decoder's differ from those of
libjpeg-turbo. Where the model is sure that moves no score; where it is unsure, scores of JPEGs move by 0.001
(the median of 320) to 0.033. The pictures here that it is unsure about are therefore PNG and WebP.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import onnxruntime
import pytest
import requests
from PIL import Image

import tiny_models
from conftest import NSFW
from pictures import encoded, landscape, warm_shapes
from server import Server

CASES: dict[str, tuple[tuple[int, int], str, dict[str, Any]]] = {
    "png-wide": ((640, 360), "PNG", {}),
    "png-small": ((120, 90), "PNG", {}),
    "png-tiny": ((7, 5), "PNG", {}),
    "png-large": ((3000, 2000), "PNG", {}),
    "png-tall": ((90, 2500), "PNG", {}),
    "png-flat": ((2500, 90), "PNG", {}),
    "jpeg": ((800, 600), "JPEG", {"quality": 90, "subsampling": 0}),
    "jpeg-subsampled": ((500, 700), "JPEG", {"quality": 85}),
    "jpeg-progressive": ((333, 257), "JPEG", {"quality": 85, "progressive": True}),
    "webp-lossless": ((300, 400), "WEBP", {"lossless": True}),
    "webp-lossy": ((512, 512), "WEBP", {"quality": 85}),
}


class Bare:
    """The graph alone, and the preparation that `halny-model.json` describes."""

    def __init__(self) -> None:
        described = json.loads((NSFW / "halny-model.json").read_text())
        self.image, self.labels = described["image"], described["labels"]
        self.session = onnxruntime.InferenceSession(str(NSFW / "model.fp32.onnx"), providers=["CPUExecutionProvider"])

    def prepared(self, file: bytes) -> Any:
        """`[1, height, width, 3]`, BGR, mean subtracted."""
        assert (self.image["mode"], self.image["channels"], self.image["layout"]) == ("center-crop", "bgr", "nhwc")
        side, width, height = self.image["resize_to"], self.image["width"], self.image["height"]
        picture = Image.open(io.BytesIO(file)).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        left, top = (side - width) // 2, (side - height) // 2
        levels = np.asarray(picture.crop((left, top, left + width, top + height)), np.float32)[..., ::-1]
        return ((levels * self.image["scale"] - self.image["mean"]) / self.image["std"]).astype(np.float32)[None]

    def scores(self, file: bytes) -> dict[str, float]:
        """Label to probability."""
        name = self.session.get_inputs()[0].name
        found = self.session.run(None, {name: self.prepared(file)})[0][0]
        return dict(zip(self.labels, found.tolist()))


@pytest.fixture(scope="module")
def bare() -> Bare:
    return Bare()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {
        name: encoded(landscape(*size, seed=number), kind, **options)
        for number, (name, (size, kind, options)) in enumerate(CASES.items())
    }


# Sizes and seeds of pictures whose scores are far from 0 and 1: kept, smaller, larger, and portraits that
# lose more than twice as many rows as columns (which Pillow resizes in another order).
UNCERTAIN = [
    ((256, 256), 8),
    ((300, 300), 6),
    ((640, 360), 2),
    ((500, 700), 17),
    ((1080, 1920), 8),
    ((1080, 1920), 17),
    ((120, 90), 20),
    ((120, 90), 8),
]
LOSSLESS_AND_LOSSY: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "webp-lossless": ("WEBP", {"lossless": True}),
    "webp-lossy": ("WEBP", {"quality": 90}),
}


def classify(server: Server, file: bytes, kind: str = "image/png", model: str = "nsfw") -> Any:
    """One image as the body of a request."""
    address = f"{server.url}/halny/v1/classify?model={model}"
    answer = requests.post(address, data=file, headers={"content-type": kind}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]


@pytest.mark.parametrize("name", CASES)
def test_scores_match_a_bare_run(server: Server, bare: Bare, files: dict[str, bytes], name: str) -> None:
    found, expected = classify(server, files[name]), bare.scores(files[name])
    assert found["scores"].keys() == expected.keys()
    for label, score in expected.items():
        assert found["scores"][label] == pytest.approx(score, abs=1e-3)
    assert found["label"] == max(expected, key=lambda label: expected[label])
    assert sum(found["scores"].values()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", LOSSLESS_AND_LOSSY)
@pytest.mark.parametrize(("size", "seed"), UNCERTAIN)
def test_scores_match_a_bare_run_where_the_model_is_unsure(
    server: Server, bare: Bare, size: tuple[int, int], seed: int, name: str
) -> None:
    kind, options = LOSSLESS_AND_LOSSY[name]
    file = encoded(warm_shapes(*size, seed=seed), kind, **options)
    expected = bare.scores(file)
    assert 0.1 < expected["nsfw"] < 0.9, "sure: this would prove little"
    assert classify(server, file)["scores"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_modes_of_png_match_a_bare_run(server: Server, bare: Bare, mode: str) -> None:
    picture = warm_shapes(256, 256, seed=11)
    if mode == "I;16":
        wide = np.asarray(picture.convert("L"), np.uint16) * 257
        file = encoded(Image.fromarray(wide), "PNG")
        expected = bare.scores(encoded(picture.convert("L"), "PNG"))
    else:
        file = encoded(picture.convert(mode), "PNG")
        expected = bare.scores(file)
    found = classify(server, file)
    assert found["scores"] == pytest.approx(expected, abs=1e-3)


def test_images_in_json_give_the_scores_of_images_in_bodies(server: Server, files: dict[str, bytes]) -> None:
    chosen = [files["png-wide"], files["jpeg"], files["webp-lossy"]]
    plain = [base64.b64encode(file).decode() for file in chosen]
    addressed = [f"data:image/png;base64,{text}" for text in plain]
    for inputs in (plain, addressed):
        body = {"model": "nsfw", "input": inputs}
        answer = requests.post(f"{server.url}/halny/v1/classify", json=body, timeout=60).json()
        for file, result in zip(chosen, answer["results"]):
            assert result["scores"] == pytest.approx(classify(server, file)["scores"], abs=1e-4)


def test_content_decides_and_not_the_content_type(server: Server, files: dict[str, bytes]) -> None:
    as_png = classify(server, files["jpeg"], "image/png")
    assert as_png == classify(server, files["jpeg"], "application/octet-stream")


@pytest.mark.parametrize("size", [(640, 360), (1080, 1920), (33, 90), (18, 18), (18, 90), (7, 5), (1, 1)])
@pytest.mark.parametrize(("kind", "most"), [("PNG", 0), ("WEBP", 0), ("JPEG", 3)])
def test_levels_are_those_of_pillow(server: Server, size: tuple[int, int], kind: str, most: int) -> None:
    """A model that gives its input back shows the preparation itself.

    JPEG decoders may round in their own way: in a hundredth to a sixth of a JPEG's levels this one differs
    from libjpeg-turbo, by up to 3 levels once resized.
    """
    file = encoded(warm_shapes(*size, seed=5), kind)
    found = classify(server, file, model="mirror")["scores"]
    side, crop = tiny_models.MIRROR_RESIZE_TO, tiny_models.MIRROR_SIDE
    picture = Image.open(io.BytesIO(file)).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    edge = (side - crop) // 2
    expected = np.asarray(picture.crop((edge, edge, edge + crop, edge + crop)), np.float32).reshape(-1)
    levels = np.array([found[str(place)] for place in range(len(expected))]) * 255
    assert np.abs(levels - expected).max() <= most + 0.001
    assert abs((levels - expected).mean()) < 0.25, "darker or brighter as a whole"
