from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.engine.build_process import load_timing_cache, save_timing_cache, set_flags
from plugins_trt.tensorrt_package import open_package


class Config:
    """What TensorRT's builder configuration does with a timing cache."""

    def __init__(self, gpu: bytes) -> None:
        self.gpu = gpu
        self.cache: bytes | None = None

    def create_timing_cache(self, serialized: bytes) -> bytes | None:
        return None if serialized == b"damaged" else serialized

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert cache is not None
        assert not ignore_mismatch
        if cache and not cache.startswith(self.gpu):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> "Config":
        return self

    def serialize(self) -> bytes:
        return self.gpu + b" measured"


@pytest.mark.parametrize(
    ("found", "used"), [(None, b""), (b"H100 before", b"H100 before"), (b"A100 before", b""), (b"damaged", b"")]
)
def test_timings_are_kept_for_the_same_gpu(tmp_path: Path, found: bytes | None, used: bytes) -> None:
    file, config = tmp_path / "timing.cache", Config(b"H100")
    if found is not None:
        file.write_bytes(found)
    load_timing_cache(config, file)
    assert config.cache == used
    save_timing_cache(config, file)
    assert [path.name for path in tmp_path.iterdir()] == ["timing.cache"]
    assert file.read_bytes() == b"H100 measured"


def test_full_tensorrt_is_not_asked_for_what_rtx_alone_has() -> None:
    asked: list[Any] = []
    config = SimpleNamespace(clear_flag=lambda flag: asked.append(f"no {flag}"), set_flag=asked.append)
    trt: Any = SimpleNamespace(BuilderFlag=SimpleNamespace(TF32="TF32"))
    set_flags(config, trt, "tensorrt")
    assert asked == ["no TF32"]


@pytest.mark.usefixtures("rtx")
def test_an_engine_of_rtx_may_be_recorded() -> None:
    trt = open_package("rtx")
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    assert config.get_flag(trt.BuilderFlag.TF32)
    set_flags(config, trt, "rtx")
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
