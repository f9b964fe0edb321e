"""How a server is set up: what the command line says, checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from export.serve.content.loading import ContentLimits
from export.serve.engine.limits import EngineLimits
from export.serve.protocol.json_body import JSONLimits
from export.serve.protocol.options import OptionLimits, Template


@dataclass(frozen=True)
class Settings:
    """Everything but the model."""

    name: str
    """Of the model, for clients."""

    host: str = "127.0.0.1"
    port: int = 8000
    public_url: str | None = None
    """Under which clients reach this server. None: under what they asked."""

    allowed_hosts: tuple[str, ...] = ()
    """Names that a request's `Host` may have, beside addresses, localhost and `host`."""

    allowed_origins: tuple[str, ...] = ()
    """Of pages elsewhere that may ask this server (CORS)."""

    image_hosts: tuple[str, ...] = ()
    """From which images are fetched."""

    template: Template = "document"
    timeout: float = 600.0
    """Seconds that a request may take."""

    client_timeout: float = 60.0
    """Seconds that a client may take to send or to read a piece."""

    grace: float = 30.0
    """Seconds that requests under way have when the server is stopped."""

    keep: float = 3600.0
    """Seconds that images and stored responses are kept."""

    max_body_bytes: int = 32 << 20
    max_kept_bytes: int = 256 << 20
    """Of images that were drawn, and as much of stored responses."""

    log_prompts: bool = False
    share_cache: bool = False
    """Whether what one client sent may make another's answer faster, which can be measured."""

    engine: EngineLimits = field(default_factory=EngineLimits)
    options: OptionLimits = field(default_factory=OptionLimits)
    content: ContentLimits = field(default_factory=ContentLimits)
    json: JSONLimits = field(default_factory=JSONLimits)
