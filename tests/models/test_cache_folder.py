from models.cache_folder import folder_of_url


def test_each_url_and_whatever_belongs_to_it_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = [
        folder_of_url("models", "s3://bucket/a/mine"),
        folder_of_url("models", "s3://bucket/b/mine"),
        folder_of_url("models", "s3://bucket/a/mine", "b"),
        folder_of_url("models", "s3://bucket/a/mine", "b", "c"),
        folder_of_url("models", "s3://bucket/a/mine", b"b"),
    ]
    assert len(set(folders)) == len(folders)
    assert all(one.parent == tmp_path / "mmfs" / "models" and one.name.startswith("mine-") for one in folders)
    there = folder_of_url("runs", "s3://bucket/a/mine", suffix="-node")
    assert there.name == f"{folders[0].name}-node"
    assert folder_of_url("models", "s3://bucket/a/mine") == folders[0]
