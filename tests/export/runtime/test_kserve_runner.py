"""A session whose image tokenizer, U-Net and decoder are computed by a server of the KServe v2 protocol."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.components.component import Port
from export.engine.compatibility import IncompatibleExport
from export.runtime import Session
from export.runtime.kserve_runner import InferenceServerError, KServeRunner
from export.runtime.runners import SERVED
from export.triton import write_repository
from kserve_server import Edit, Repository, serving


@pytest.fixture(scope="module")
def repository(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    root = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(exported, root, "onnx")
    return Repository(root)


@pytest.fixture(scope="module")
def url(repository: Repository) -> Iterator[str]:
    with serving(repository) as address:
        yield address


@pytest.fixture(scope="module")
def session(exported: Path, url: str) -> Session:
    return Session.open(exported, "triton", url=url)


def test_a_server_computes_what_onnxruntime_does(
    session: Session, exported: Path, model_dir: Path, repository: Repository
) -> None:
    """What it draws, which is read again, and an image drawn after another one."""
    picture = Image.open(model_dir / "samples/0.png")
    options = {"max_new_tokens": 8, "max_new_images": 2, "num_inference_steps": 3, "seed": 5, "guidance_scale": 2.0}
    here = Session.open(exported, "ort")
    for document, mode in ((["draw"], "auto"), ([picture, "and"], "image")):
        repository.num_calls.clear()
        found = session.generate(document, mode=mode, **options)
        expected = here.generate(document, mode=mode, **options)
        assert found.text == expected.text
        assert found.finish_reason == expected.finish_reason
        assert len(found.images) == len(expected.images) > 0
        for one, other in zip(found.images, expected.images, strict=True):
            assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1, "up to rounding"
        assert set(repository.num_calls) == SERVED & set(session.runners)
        assert repository.num_calls["unet_mmfs"] == 3 * len(found.images)


def test_nothing_to_send_is_sent_too(session: Session, exported: Path) -> None:
    """A document without an image: the banks are empty."""
    options = {"mode": "image", "num_inference_steps": 2, "seed": 1}
    (found,) = session.generate(["no image"], **options).images
    (expected,) = Session.open(exported, "ort").generate(["no image"], **options).images
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 1


def test_a_server_that_is_gone_is_named(exported: Path, session: Session) -> None:
    with pytest.raises(InferenceServerError, match=r"http://127\.0\.0\.1:9 does not answer for .*Start the server"):
        Session.open(exported, "triton", url="http://127.0.0.1:9")


def test_another_repository_is_refused(exported: Path, repository: Repository, tmp_path: Path) -> None:
    root = tmp_path / "repository"
    shutil.copytree(repository.root, root)
    config = root / "unet_mmfs/config.pbtxt"
    config.write_text(config.read_text().replace('"sample"', '"samples"'))
    with serving(Repository(root)) as other:
        with pytest.raises(IncompatibleExport, match=r"unet_mmfs of .* has other input 'sample', input 'samples'"):
            Session.open(exported, "triton", url=other)
        shutil.rmtree(root / "image_tokenizer")
        with pytest.raises(InferenceServerError, match=r"image_tokenizer: status 404.*unknown model"):
            Session.open(exported, "triton", url=other)


def leave_out(answer: dict) -> None:
    answer["outputs"].pop()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (leave_out, "it left out "),
        (lambda answer: answer["outputs"][0].update(datatype="FP16"), "is FP16 .* expected FP32"),
        (lambda answer: answer["outputs"][0].update(name="other"), "'other', which was not asked for"),
        (lambda answer: answer["outputs"][0]["shape"].append(1), "expected FP32"),
    ],
)
def test_a_wrong_answer_is_refused(session: Session, repository: Repository, edit: Edit, message: str) -> None:
    runner = session.runners["image_tokenizer"]
    given = {
        name: torch.zeros([size if isinstance(size, int) else 1 for size in port.shape], dtype=port.dtype)
        for name, port in runner.inputs.items()
    }
    right = runner(**given)
    assert right.keys() == runner.outputs.keys()
    repository.edit = edit
    try:
        with pytest.raises(InferenceServerError, match=message):
            runner(**given)
    finally:
        repository.edit = None
    again = runner(**given)
    assert all(torch.equal(again[name], right[name]) for name in right)


def test_what_it_cannot_be_given(exported: Path) -> None:
    port = Port(torch.float32, ("batch",))
    with pytest.raises(ValueError, match="expected the server's, such as"):
        KServeRunner("unet_mmfs", {"sample": port}, {"model_output": port}, "127.0.0.1:8000")
    with pytest.raises(ValueError, match="has a server's url"):
        Session.open(exported, "ort", url="http://127.0.0.1:8000")
    with pytest.raises(ValueError, match="has a server's url"):
        Session.open(exported, "triton")
    with pytest.raises(ValueError, match="computed on the CPU"):
        Session.open(exported, "triton", url="http://127.0.0.1:8000", device="cuda")
