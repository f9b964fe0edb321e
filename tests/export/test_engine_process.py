from pathlib import Path

import pytest

from export.engine_process import load_timing_cache, save_timing_cache


class Config:
    """What TensorRT's builder configuration does with a timing cache."""

    def __init__(self, gpu: bytes) -> None:
        self.gpu = gpu
        self.cache: bytes | None = None

    def create_timing_cache(self, serialized: bytes) -> bytes:
        return serialized

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache and not cache.startswith(self.gpu):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> "Config":
        return self

    def serialize(self) -> bytes:
        return self.gpu + b" measured"


@pytest.mark.parametrize(("found", "used"), [(None, b""), (b"H100 before", b"H100 before"), (b"A100 before", b"")])
def test_timings_are_kept_for_the_same_gpu(tmp_path: Path, found: bytes | None, used: bytes) -> None:
    file, config = tmp_path / "timing.cache", Config(b"H100")
    if found is not None:
        file.write_bytes(found)
    load_timing_cache(config, file)
    assert config.cache == used
    save_timing_cache(config, file)
    assert [path.name for path in tmp_path.iterdir()] == ["timing.cache"]
    assert file.read_bytes() == b"H100 measured"
