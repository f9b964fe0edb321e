"""The files of a run in object storage."""

from bench import object_servers
from models.object_path import ObjectPath
from trainer.run_files import CHECKPOINTS, LOG, MODEL, QUARANTINE, ROW_STARTS, SAMPLES, SETTINGS
from trainer.run_storage import fetch


def test_a_run_that_goes_on_fetches_what_tells_what_has_happened(tmp_path):
    small = (SETTINGS, LOG, QUARANTINE, f"{SAMPLES}/main/10.png", f"{ROW_STARTS}/0.bin")
    with object_servers.s3_bucket() as bucket:
        for name in (*small, f"{CHECKPOINTS}/main-10/part", f"{MODEL}/config.json"):
            bucket.put(f"runs/mine/{name}", name.encode())
        fetch(ObjectPath(f"{bucket.url}/runs/mine/"), tmp_path)
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {name: name for name in small}
