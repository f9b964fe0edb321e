"""Names of things in object storage: what a URL is, how it is taken apart, and how it is shown.

A URL stays text. As a `pathlib.Path` it would lose a slash, and so become the name of a local folder.
"""

from __future__ import annotations

import argparse
import re
from os import PathLike, fspath
from pathlib import Path
from urllib.parse import urlsplit

from models.printable import printable

SCHEMES = ("s3", "gs", "hf", "https", "http")
"""What `models.object_storage` reads. http is for servers of one's own network."""

WEB_SCHEMES = ("https", "http")
"""Of these, servers that name what they have on pages, if at all."""

_URL = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*://|(?:{'|'.join(SCHEMES)}):/", re.IGNORECASE)
"""With one slash, it is a URL that a path has been made of."""


def is_url(place: str | PathLike[str]) -> bool:
    """Whether a text (or a path that was made of it) names something by URL, and not a file or folder here."""
    return _URL.match(fspath(place)) is not None


def scheme_of(url: str) -> str:
    """Of `SCHEMES`, if `check_url` has given the URL."""
    return url.partition("://")[0]


def shown_url(url: str) -> str:
    """A URL as messages and logs show it: without user, password, query and fragment, which may be secrets."""
    scheme, slashes, rest = url.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return printable(f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}")


def check_url(url: str, what: str) -> str:
    """The URL, if it can be used and written down, with its scheme in small letters: libraries know no others.

    Args:
        url: what was given.
        what: begins the sentence of a refusal: "--out", say.

    Raises:
        ValueError: its scheme is none of `SCHEMES`, it names no bucket or host, or it holds a password or a signature,
            which manifests, logs and settings would show.
    """
    parts = urlsplit(url)
    if parts.scheme.lower() not in SCHEMES or not url.partition("://")[2]:
        raise ValueError(
            f"{what} is {shown_url(url)}; expected a file or folder here, or a URL that begins with "
            f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}."
        )
    if "@" in parts.netloc and parts.scheme != "hf":  # hf://datasets/owner/name@revision
        raise ValueError(
            f"{what} is {shown_url(url)} with a user or password, which would stand in logs and manifests. Leave it "
            "out: ~/.netrc, environment variables and the files of aws, gcloud and hf are read by their own libraries."
        )
    if parts.query or parts.fragment:
        raise ValueError(
            f"{what} is {shown_url(url)} with a query or a fragment (? or #), which may be a signature and would stand "
            "in logs and manifests. Give the URL without it; credentials are found in the environment and in the "
            "files of aws, gcloud and hf."
        )
    return f"{parts.scheme}://{url.partition('://')[2]}"


def join_url(url: str, *names: str) -> str:
    """The URL of something below another one."""
    return "/".join([url.rstrip("/"), *(name.strip("/") for name in names)])


def local_path(text: str) -> Path:
    """A file or folder of this machine, as the type of an argparse option. A URL is refused with a sentence."""
    if is_url(text):
        raise argparse.ArgumentTypeError(f"{shown_url(text)} is a URL; expected a file or folder of this machine.")
    return Path(text)


def require_local(place: str, what: str) -> None:
    """Raise ValueError if a place is a URL, where that cannot be one; `what` begins the sentence."""
    if is_url(place):
        raise ValueError(f"{what} is {shown_url(place)}, a URL; expected a file or folder of this machine.")
