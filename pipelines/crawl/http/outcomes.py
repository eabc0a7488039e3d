"""The terminal outcomes of a request, each with whether another try makes sense."""

from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended; the words are the reasons in funnels and tables."""

    OK = "ok"
    NOT_FOUND = "not_found"
    HTTP_4XX = "http_4xx"
    THROTTLED = "throttled"
    HTTP_5XX = "http_5xx"
    BAD_RESPONSE = "bad_response"
    TIMEOUT = "timeout"
    TOO_SLOW = "too_slow"
    CONNECT = "connect"
    DNS = "dns"
    TLS = "tls"
    TOO_LARGE = "too_large"
    NOT_AN_IMAGE = "not_an_image"
    NOT_A_PAGE = "not_a_page"
    OPTED_OUT = "opted_out"
    ROBOTS_UNREACHABLE = "robots_unreachable"
    UNSAFE_ADDRESS = "unsafe_address"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    INVALID_URL = "invalid_url"

    @property
    def retryable(self) -> bool:
        """Whether the same request may end otherwise later."""
        return self in _RETRYABLE

    @classmethod
    def of_status(cls, status: int) -> "Outcome":
        """The outcome that a final HTTP status stands for; 2xx is OK."""
        if status in (404, 410):
            return cls.NOT_FOUND
        if status in (429, 503):
            return cls.THROTTLED
        if 200 <= status < 300:
            return cls.OK
        if 400 <= status < 500:
            return cls.HTTP_4XX
        return cls.HTTP_5XX if status >= 500 else cls.BAD_RESPONSE


_RETRYABLE = frozenset(
    {
        Outcome.THROTTLED,
        Outcome.HTTP_5XX,
        Outcome.BAD_RESPONSE,
        Outcome.TIMEOUT,
        Outcome.TOO_SLOW,
        Outcome.CONNECT,
        Outcome.DNS,
        Outcome.ROBOTS_UNREACHABLE,
    }
)


def printable(text: str) -> str:
    """`text` from the web, without what a terminal or a table would obey: that as `\\xNN`."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


class FetchError(Exception):
    """A request that ended without a body; `outcome` says how."""

    def __init__(self, outcome: Outcome, detail: str):
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail
