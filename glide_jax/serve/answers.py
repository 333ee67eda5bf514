"""Errors of the server, and their JSON in the shape that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class RequestError(Exception):
    """A request that is answered by an error.

    Attributes:
      status: the HTTP status.
      message: one line.
      param: the field at fault, or None.
      code: a short name of the error, or None.
      retry_after_s: whole seconds for the header Retry-After, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code, self.retry_after_s = param, code, retry_after_s

    def body(self) -> dict[str, Any]:
        """Returns {"error": {"message", "type", "param", "code"}}."""
        own = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, own),
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Returns the headers of the answer."""
        found = {}
        if self.retry_after_s is not None:
            found["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        return found


def unusable(message: str, param: str | None = None) -> RequestError:
    """Returns the error of a field with a value that cannot be used."""
    return RequestError(422, message, param=param)
