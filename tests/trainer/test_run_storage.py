"""The files of a run in object storage."""

import pytest

from models.config import CONFIG_FILE
from models.directory_lock import LOCK_FILE
from models.object_path import ObjectPath
from trainer import run_storage
from trainer.errors import UsageError
from trainer.process.interrupt import STOP_FILE
from trainer.process.lease import LEASE_FILE, Lease
from trainer.run_files import CHECKPOINTS, HANG, LOG, MODEL, PROFILE, QUARANTINE, ROW_STARTS, SAMPLES, SETTINGS
from trainer.run_storage import Storage, empty_folder, fetch, local_folder, publish_files, take_stop


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def stored(bucket, place):
    below = f"{place.name}/"
    return {
        name.removeprefix(below): (place / name.removeprefix(below)).read_text()
        for name in bucket.names()
        if name.startswith(below)
    }


def test_a_run_that_goes_on_fetches_what_tells_what_has_happened(bucket, place, tmp_path):
    small = (SETTINGS, LOG, QUARANTINE, f"{SAMPLES}/main/10.png", f"{ROW_STARTS}/0.bin")
    for name in (*small, f"{CHECKPOINTS}/main-10/part", f"{MODEL}/config.json"):
        bucket.put(f"{place.name}/{name}", name.encode())
    fetch(ObjectPath(f"{place.url}/"), tmp_path)
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {name: name for name in small}


def test_the_folder_of_a_url_is_of_one_agent_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = []
    for host in ("node-a", "node-b"):  # which share a home
        monkeypatch.setattr(run_storage.socket, "gethostname", lambda host=host: host)
        folders += [local_folder("s3://bucket/runs/mine"), local_folder("s3://bucket/mine")]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "two agents on one machine")
    for agent in range(2):
        monkeypatch.setenv("GROUP_RANK", f"{agent}")
        folders += [local_folder("s3://bucket/runs/mine"), local_folder("s3://bucket/mine")]
    assert folders[4:6] == folders[2:4]
    assert len(set(folders)) == 6
    assert all(folder.parent == tmp_path / "mmfs" / "runs" and folder.name.startswith("mine-") for folder in folders)
    assert local_folder("runs/mine") == run_storage.Path("runs/mine")


def test_what_an_earlier_run_has_left_is_removed_but_for_the_lock(tmp_path):
    write(tmp_path, {LOG: "", f"{SAMPLES}/1.png": "", LOCK_FILE: ""})
    (tmp_path / "link").symlink_to(tmp_path / SAMPLES)
    empty_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


def test_files_are_uploaded_when_they_have_changed(bucket, place, tmp_path, monkeypatch):
    storage = Storage(place, tmp_path, Lease(place))
    files = {SETTINGS: "a", LOG: "1", f"{SAMPLES}/main/10.png": "x"}
    others = (f"{CHECKPOINTS}/main-1/part", f"{MODEL}/config.json", f"{HANG}/a/b", f"{PROFILE}/c", STOP_FILE, LOCK_FILE)
    write(tmp_path, {**files, **dict.fromkeys(others, "")})
    storage.publish()
    assert stored(bucket, place) == files
    uploaded = []
    monkeypatch.setattr(run_storage, "upload", lambda file, url: uploaded.append(url.removeprefix(f"{place.url}/")))
    storage.publish()
    (tmp_path / LOG).write_text("12")
    storage.publish()
    assert uploaded == [LOG]


def test_nothing_is_uploaded_to_where_another_run_has_begun(bucket, place, tmp_path):
    bucket.put(f"{place.name}/{LEASE_FILE}", b'{"id": "another", "pid": 7, "host": "node-b"}')
    write(tmp_path, {LOG: "1"})
    with pytest.raises(UsageError, match="Process 7 on node-b has begun to write into"):
        Storage(place, tmp_path, Lease(place)).publish()
    assert stored(bucket, place).keys() == {LEASE_FILE}


def test_a_model_is_one_when_all_of_it_is_there(bucket, place, tmp_path, monkeypatch):
    """A kill at any moment leaves the model, or no model."""
    bucket.put(f"{place.name}/{MODEL}/{CONFIG_FILE}", b"earlier")
    files = {f"{MODEL}/{name}": name for name in (CONFIG_FILE, "a.json", "model.safetensors", "tokenizer/z.json")}
    write(tmp_path, files)
    seen = []

    def upload(file, url, upload=run_storage.upload):
        seen.append((place / MODEL / CONFIG_FILE).exists())
        upload(file, url)

    monkeypatch.setattr(run_storage, "upload", upload)
    Storage(place, tmp_path, Lease(place)).publish_model()
    assert seen == [False] * len(files)
    assert stored(bucket, place) == files
    assert not (tmp_path / MODEL).exists()


def test_files_of_other_processes_go_up_too(bucket, place, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = f"{PROFILE}/main-1-2-rank3.txt"
    write(local_folder(place.url), {name: "times"})
    publish_files(place.url, [local_folder(place.url) / name])
    assert stored(bucket, place) == {name: "times"}
    write(tmp_path / "here", {name: "times"})
    publish_files(str(tmp_path / "here"), [tmp_path / "here" / name])
    assert [path.name for path in (tmp_path / "here").iterdir()] == [PROFILE]


def test_a_stop_object_stops_the_run_once(bucket, place, tmp_path):
    take_stop(place, tmp_path)
    assert not (tmp_path / STOP_FILE).exists()
    bucket.put(f"{place.name}/{STOP_FILE}", b"")
    take_stop(place, tmp_path)
    assert (tmp_path / STOP_FILE).exists()
    assert stored(bucket, place) == {}
