"""What a request gives: a body, or how it ended without one."""

from dataclasses import dataclass
from datetime import datetime

from pipelines.crawl.consent.opt_out import OptOut
from pipelines.crawl.http.outcomes import Outcome

# Without a status from a server these are our own refusals: no attempt that counts for the URL.
_NOT_ASKED = frozenset(
    {
        Outcome.OPTED_OUT,
        Outcome.ROBOTS_UNREACHABLE,
        Outcome.INVALID_URL,
        Outcome.UNSAFE_ADDRESS,
        Outcome.THROTTLED,
    }
)


@dataclass(frozen=True)
class Response:
    """How a request ended.

    Attributes:
        url: the address that answered, after redirects.
        outcome: `ok`, or why there is no body.
        detail: the error's own words.
        status: HTTP status of the last response.
        content_type: its Content-Type header.
        mime: type found in the first bytes.
        body: decoded bytes, if `ok`.
        opt_out: the signal that forbids the use.
        attempts: requests made for this URL, redirects apart.
        ended_at: when the exchange ended.
    """

    url: str
    outcome: Outcome
    detail: str | None = None
    status: int | None = None
    content_type: str = ""
    mime: str | None = None
    body: bytes | None = None
    opt_out: OptOut | None = None
    attempts: int = 1
    ended_at: datetime = datetime.min

    @property
    def was_asked(self) -> bool:
        """Whether a server was asked for the URL, or was at least looked for."""
        return self.status is not None or self.outcome not in _NOT_ASKED
