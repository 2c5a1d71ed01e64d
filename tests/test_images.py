"""The image classifier against a bare ONNX Runtime run over the same graph, prepared with Pillow."""

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


@pytest.fixture(scope="module")
def uncertain() -> list[bytes]:
    """Pictures whose scores are far from 0 and 1, of the very size the preparation resizes to.

    Where the model is unsure, one level more in one pixel moves its score by up to 0.004; the server's
    resize is within one level of Pillow's (the last test here), so these are not resized.
    """
    return [encoded(warm_shapes(256, 256, seed=seed), "PNG") for seed in (2, 6, 8, 17)]


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


def test_scores_match_a_bare_run_where_the_model_is_unsure(server: Server, bare: Bare, uncertain: list[bytes]) -> None:
    expected = [bare.scores(file) for file in uncertain]
    assert sum(0.02 < scores["nsfw"] < 0.98 for scores in expected) >= 3, "sure of all: this would prove little"
    for file, scores in zip(uncertain, expected):
        assert classify(server, file)["scores"] == pytest.approx(scores, abs=1e-3)


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


@pytest.mark.parametrize("size", [(640, 360), (33, 90), (18, 18), (7, 5), (1, 1)])
@pytest.mark.parametrize(("kind", "most"), [("PNG", 1), ("WEBP", 3), ("JPEG", 3)])
def test_levels_are_those_of_pillow_but_for_rounding(
    server: Server, size: tuple[int, int], kind: str, most: int
) -> None:
    """A model that gives its input back shows the preparation itself.

    Bilinear with a kernel that widens when it shrinks, as Pillow's. The two round differently while they
    resize (1 level), and so do lossy decoders (2 more).
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
