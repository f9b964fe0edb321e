"""Images by name."""

from __future__ import annotations

import pytest

from trainer.data.sources.image_files import ImageFiles


def test_folders_and_archives(shards):
    folder = shards.folder("images", {"a.png": b"aa"})
    (shards.root / "secret.png").write_bytes(b"s")
    archive = shards.tar("images.tar", [("./b.png", b"bbb"), ("sub/c.png", b"cccc")])
    files = ImageFiles([folder, archive], relative_to=shards.root / "out")
    assert files.find("a.png") == ("../images/a.png", 0, 2)
    for name, data in (("b.png", b"bbb"), ("sub/c.png", b"cccc")):
        file, offset, size = files.find(name)
        assert file == "../images.tar"
        assert archive.read_bytes()[offset : offset + size] == data
    assert files.find("d.png") is None
    assert files.find("../secret.png") is None
    assert files.find(str(shards.root / "secret.png")) is None


def test_a_broken_archive_is_told(shards):
    archive = shards.root / "images.tar"
    archive.write_bytes(b"junk" * 1000)
    with pytest.raises(ValueError, match=r"--images is .*images.tar, which cannot be used: the archive cannot be read"):
        ImageFiles([archive], relative_to=shards.root)
    whole = shards.tar("cut.tar", [("a.png", b"a"), ("b.png", b"b" * 2000)])
    whole.write_bytes(whole.read_bytes()[:2000])
    (problem,) = ImageFiles([whole], relative_to=shards.root).problems
    assert problem.startswith(f"{whole}: 'b.png' declares 2,000 bytes")
