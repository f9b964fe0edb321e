"""Models on the hub, against a server on this machine that speaks the hub's HTTP interface."""

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import torch

from hub_server import Hub, serving
from models import MMInterleaved, MMInterleavedProcessor
from models.config import MMInterleavedConfig

# huggingface_hub 2.4 uploads a file through Git LFS with an argument that its HTTP library renamed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and an empty cache. The library reads these settings from the environment when it is imported."""
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        yield hub


def same_weights(one: MMInterleaved, other: MMInterleaved) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def test_a_model_is_uploaded_and_found_again(
    hub: Hub, model: MMInterleaved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = model.push_to_hub("owner/name", private=True, token="hf_of_the_test", max_shard_size="100KB")
    repository = hub.repositories["owner/name"]
    first = repository.branches["main"]
    assert address == f"{hub.url}/owner/name/commit/{first}"
    assert repository.private
    files = repository.commits[first]
    assert {"README.md", "config.json", "processor.json", "tokenizer.json", "model.safetensors.index.json"} < set(files)
    shards = set(json.loads(files["model.safetensors.index.json"])["weight_map"].values())
    assert len(shards) > 2
    assert shards < set(files)

    loaded = MMInterleaved.from_pretrained("owner/name", token="hf_of_the_test")
    assert same_weights(loaded, model)
    assert loaded.processor is not None

    with torch.no_grad():
        model.begin_of_image += 1
    model.push_to_hub("owner/name", token="hf_of_the_test", max_shard_size="100KB")
    assert not same_weights(MMInterleaved.from_pretrained("owner/name", revision=first), model)
    assert same_weights(MMInterleaved.from_pretrained("owner/name"), model)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # HF_HUB_OFFLINE=1
    asked = len(hub.requests)
    assert same_weights(MMInterleaved.from_pretrained("owner/name"), model)
    assert len(hub.requests) == asked, "nothing is asked for"
    with pytest.raises(FileNotFoundError, match="hub was not reached while its cache here does not hold other/name"):
        MMInterleaved.from_pretrained("other/name")


def test_nothing_but_a_model_is_fetched(hub: Hub, model: MMInterleaved) -> None:
    model.push_to_hub("owner/name")
    hub.repositories["owner/name"].commit("main", {"modeling.py": b"raise SystemExit", "weights.bin": b"pickle"})
    hub.requests.clear()
    MMInterleaved.from_pretrained("owner/name")
    fetched = [request for request in hub.requests if "/resolve/" in request]
    assert any(request.endswith("config.json") for request in fetched)
    assert not any(request.endswith((".py", ".bin", ".gitattributes")) for request in fetched)


def test_what_is_not_there_is_said(hub: Hub, model: MMInterleaved, tmp_path: Path) -> None:
    model.push_to_hub("owner/name")
    with pytest.raises(FileNotFoundError, match=r"other/name is no directory, and the hub does not give it away: 404"):
        MMInterleaved.from_pretrained("other/name")
    with pytest.raises(FileNotFoundError, match=r"does not give it away at revision 'v9': 404"):
        MMInterleaved.from_pretrained("owner/name", revision="v9")
    with pytest.raises(FileNotFoundError, match=r"cache here does not hold owner/name at v9"):
        MMInterleaved.from_pretrained("owner/name", revision="v9", local_files_only=True)
    with pytest.raises(FileNotFoundError, match=r"no-such is no directory, and no name on the hub \(owner/name\)"):
        MMInterleaved.from_pretrained("no-such")
    with pytest.raises(ValueError, match=r"revision is 'main', and .* is a directory here, which has none"):
        MMInterleaved.from_pretrained(tmp_path, revision="main")


def test_a_directory_comes_before_a_repository(
    hub: Hub, processor: MMInterleavedProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    MMInterleaved(MMInterleavedConfig.tiny(), processor).save_pretrained("owner/name")
    MMInterleaved.from_pretrained("owner/name")
    assert hub.requests == []
