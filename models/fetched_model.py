"""A model directory in object storage, fetched into a cache of this machine: once, whoever of its processes asks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from models.cache_folder import folder_of_url
from models.config import CONFIG_FILE
from models.digests import DIGESTS_FILE
from models.fetched_folder import fetched_once
from models.object_storage import download_all, objects_below
from models.urls import check_url, shown_url

FILES = ("*.json", "*.safetensors", DIGESTS_FILE)
"""What is read of a model, in subfolders too. Nothing else is fetched: no code, no pickles."""


def fetched_model(url: str) -> Path:
    """A local copy of the model directory at a URL. It is fetched again where an object has changed.

    Raises:
        FileNotFoundError: there is no model.
        ModuleNotFoundError: a package that reads such URLs is missing.
        ValueError: the URL cannot be used.
        models.object_storage.StorageError: the storage does not give it out.
    """
    base = check_url(url, "The model").rstrip("/")
    wanted = objects_below(base, FILES)
    if CONFIG_FILE not in wanted:
        raise FileNotFoundError(
            f"{shown_url(base)} holds no {CONFIG_FILE}. Expected what MMInterleaved.save_pretrained or "
            "python -m models.convert wrote."
        )
    contents = sorted((name, found.size_bytes, found.etag) for name, found in wanted.items())
    return fetched_once(folder_of_url("models", base, contents), partial(download_all, wanted))
