"""A model's directory and an export answer through the same server, and `--backend` says who computes."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from export.runtime import Session
from export.serve.engine.batching import BatchingEngine
from export.serve.engine.limits import EngineLimits
from export.serve.http.service import Service
from export.serve.opening import Source, backend_of, open_model
from export.serve.settings import Settings
from live_server import live
from models import MMInterleaved


def test_an_export_answers_as_the_session_does(exported: Path, data_url: str, picture):
    model = open_model(Source(exported))
    assert isinstance(model, Session)
    expected = model.generate([picture, "draw"], mode="auto", max_new_tokens=6, num_inference_steps=2, seed=1)
    with live(Service(Settings(name="export")), model, BatchingEngine(model, EngineLimits())) as server:
        content = [{"type": "image_url", "image_url": {"url": data_url}}, {"type": "text", "text": "draw"}]
        answer = server.client().chat.completions.create(
            model="export",
            messages=[{"role": "user", "content": content}],
            max_tokens=6,
            seed=1,
            extra_body={"mmfs": {"num_inference_steps": 2}},
        )
    message = answer.choices[0].message
    assert message.content == expected.text
    kinds = ["text" if isinstance(one, str) else "image" for one in expected]
    assert [one["type"] for one in message.mmfs["content"]] == kinds
    assert len(message.images) == len(expected.images)
    assert "image" in kinds, "the test shows nothing of images"
    assert answer.usage.prompt_tokens == expected.num_prompt_tokens


def test_who_computes(exported: Path, model_dir: Path, tmp_path: Path):
    assert backend_of(Source(model_dir)) == "torch"
    assert backend_of(Source(exported)) == "ort"
    assert backend_of(Source(exported, "torch")) == "torch"
    assert isinstance(open_model(Source(model_dir)), MMInterleaved)
    with pytest.raises(ValueError, match="is no export"):
        backend_of(Source(model_dir, "ort"))
    assert backend_of(Source(exported, "triton", url="http://127.0.0.1:9")) == "triton"
    for source in (Source(exported, "triton"), Source(exported, url="http://127.0.0.1:9")):
        with pytest.raises(ValueError, match="--triton-url"):
            backend_of(source)
    with pytest.raises(FileNotFoundError, match="There is no directory"):
        backend_of(Source(tmp_path / "none"))


def test_engines_compute_where_all_are_there_and_a_gpu_is(exported: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing is opened: only what is asked about the export and the machine counts."""
    from export.serve import opening
    from export.store.manifest import NoEngine, read_manifest

    monkeypatch.setattr(opening.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(opening, "why_not", lambda package: None)
    assert backend_of(Source(exported)) == "ort", "it has no engines"
    names = list(read_manifest(exported).components)
    built, none = object.__new__(opening.EngineEntry), object.__new__(NoEngine)

    def with_engines(*each: dict[str, object]) -> None:
        components = {name: SimpleNamespace(engines=each[i % len(each)]) for i, name in enumerate(names)}
        monkeypatch.setattr(opening, "read_manifest", lambda directory: SimpleNamespace(components=components))

    with_engines({"rtx-1.7": built, "tensorrt-11.0": none})
    assert backend_of(Source(exported)) == "rtx"
    with_engines({"tensorrt-11.0": built})
    assert backend_of(Source(exported)) == "trt"
    monkeypatch.setattr(opening, "why_not", lambda package: "not installed" if package == "tensorrt" else None)
    assert backend_of(Source(exported)) == "ort", "the package is missing"
    with_engines({"rtx-1.7": built}, {"rtx-1.7": none})
    assert backend_of(Source(exported)) == "ort", "one component has none"
