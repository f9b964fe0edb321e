"""The exported model, computed by onnxruntime and by PyTorch."""

from pathlib import Path

import pytest

from export.runtime import Session
from models import MMInterleaved


@pytest.fixture(scope="module", params=["ort", "torch"])
def session(request: pytest.FixtureRequest, exported: Path, model_dir: Path) -> Session:
    if request.param == "ort":
        return Session.open(exported, "ort")
    return Session.of(MMInterleaved.from_pretrained(model_dir), device="cpu")
