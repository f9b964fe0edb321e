"""Models on the Hugging Face Hub: found or fetched there, and uploaded."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from models.digests import DIGESTS_FILE
from models.fetched_model import fetched_model
from models.urls import is_url

REPOSITORY_NAME = re.compile(r"[\w.-]+/[\w.-]+")

FILES = ("*.json", "*.safetensors", DIGESTS_FILE, "README.md")
"""What a model directory holds, in subfolders too. Nothing else of a repository is fetched: no code, no pickles."""


def model_directory(
    name_or_directory: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local directory of a model; a repository of the hub is fetched into its cache first.

    Args:
        name_or_directory: a directory, the name of a repository, "owner/name" (a directory of that name comes first),
            or the URL of a directory in object storage, which is fetched into a cache too.
        revision: of the repository: a branch, a tag or a commit. None: its default branch.
        token: for a private repository. None: the one that `hf auth login` stored.
        local_files_only: take it from the hub's cache alone, as `HF_HUB_OFFLINE=1` does for all programs.

    Raises:
        FileNotFoundError: there is neither such a directory nor such a repository, or it cannot be reached.
        ValueError: a revision of a directory.
    """
    if is_url(name_or_directory):
        return fetched_model(str(name_or_directory))
    directory = Path(name_or_directory)
    if directory.is_dir():
        if revision is not None:
            raise ValueError(
                f"revision is {revision!r}, and {directory} is a directory here, which has none. Leave revision out, "
                "or give the name of a repository that is no directory."
            )
        return directory
    name = str(name_or_directory)
    if not REPOSITORY_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"{name} is no directory, and no name on the hub (owner/name) either. Expected a directory written by "
            "MMInterleaved.save_pretrained or python -m models.convert, or the name of a repository."
        )
    try:
        fetched = HfApi(token=token).snapshot_download(
            name, revision=revision, local_files_only=local_files_only, allow_patterns=list(FILES)
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{name} is no directory, and the hub was not reached while its cache here does not hold "
            f"{name}{'' if revision is None else f' at {revision}'}. Check the name, or fetch it once with a network. "
            f"{error}"
        ) from error
    except HfHubHTTPError as error:
        raise FileNotFoundError(
            f"{name} is no directory, and the hub does not give it away"
            f"{'' if revision is None else f' at revision {revision!r}'}: {error}"
        ) from error
    return Path(str(fetched))


def upload_model(
    directory: Path,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload an MM-Interleaved model",
    create_pr: bool = False,
) -> str:
    """Put the files of a model directory into a repository of the hub, which is made if it is not there.

    Args:
        directory: the model.
        repo_id: "owner/name", or "name" in your own account.
        revision: the branch to upload to; it has to exist. None: the default branch.
        private: of a new repository. None: as the account says.
        token: with the right to write. None: the one that `hf auth login` stored.
        commit_message: of the upload.
        create_pr: propose the change instead of making it.

    Returns:
        The address of the commit.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: the hub refuses.
    """
    api = HfApi(token=token)
    name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    commit = api.upload_folder(
        repo_id=name,
        folder_path=directory,
        revision=revision,
        commit_message=commit_message,
        create_pr=create_pr,
        allow_patterns=list(FILES),
    )
    return str(commit.commit_url)
