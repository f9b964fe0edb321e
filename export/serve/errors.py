"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.json_files import cut

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    421: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
"""HTTP status to `type`; any other is "server_error"."""

MOST_CHARACTERS = 2000


class RequestError(Exception):
    """A request that is refused, or an answer that cannot be completed.

    Args:
        status: of HTTP.
        message: what came, what was expected, the way out.
        param: the place in the request, as `messages[0].content[1].image_url`.
        code: OpenAI's word for it, where there is one.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """As clients read it."""
        message = cut(str(self), MOST_CHARACTERS)
        kind = TYPES.get(self.status, "server_error")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, status: int = 400) -> RequestError:
    """A request that cannot be answered as it is."""
    return RequestError(status, message, param=param)
