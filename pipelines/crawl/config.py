"""Configuration of the crawl stage. It holds no secrets: it is hashed into fingerprints."""

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True)
class HttpConfig:
    """How the crawler speaks to servers.

    Attributes:
        contact: URL or e-mail address in the User-Agent, for site owners who want to object.
        agent: product token, which robots.txt groups and X-Robots-Tag prefixes are matched with.
        deadline_s: limit of one whole exchange, redirects included, in seconds.
        max_bytes: limit of a body, after content decoding.
        max_redirects: redirects followed; each target is checked like the first URL.
        retries: further tries after an outcome that may pass (timeouts, 5xx ...).
        host_delay_s: least time between two requests to one host, in seconds.
        allow_networks: networks that may be fetched from although they are not global,
            e.g. `127.0.0.0/8` for a server on this machine.

    Raises:
        ValueError: if a value makes no sense, naming it.
    """

    contact: str
    agent: str = "dalle-graph"
    deadline_s: float = 10.0
    max_bytes: int = 20_000_000
    max_redirects: int = 5
    retries: int = 1
    host_delay_s: float = 0.5
    allow_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.contact.strip() or not self.contact.isprintable():
            raise ValueError("contact is empty: set a URL or e-mail address that site owners reach")
        if not self.agent.replace("-", "").replace("_", "").isalpha():
            raise ValueError(f"agent may hold letters, - and _ only (RFC 9309), got {self.agent!r}")
        if self.deadline_s <= 0 or self.max_bytes < 1:
            raise ValueError("deadline_s and max_bytes must be above 0")
        if min(self.retries, self.max_redirects, self.host_delay_s) < 0:
            raise ValueError("retries, max_redirects and host_delay_s must not be negative")
        for network in self.allow_networks:
            ipaddress.ip_network(network)

    @property
    def user_agent(self) -> str:
        """Value of the User-Agent header."""
        return f"{self.agent}/0.1 (+{self.contact})"


@dataclass(frozen=True)
class CandidatesConfig:
    """How candidates are extracted.

    Attributes:
        http: for pages and sitemaps; `max_bytes` is the limit of a page.
        rows_per_part: pairs in an output part, which is also the shard of the fetch; all pairs of
            one URL are in one part.
        pages_per_shard: web pages that one worker reads before it writes a receipt.
    """

    http: HttpConfig
    rows_per_part: int = 2000
    pages_per_shard: int = 64

    def __post_init__(self) -> None:
        if self.rows_per_part < 1 or self.pages_per_shard < 1:
            raise ValueError("rows_per_part and pages_per_shard must be at least 1")


@dataclass(frozen=True)
class FetchConfig:
    """How images are fetched.

    Attributes:
        http: `max_bytes` is the limit of an image.
        concurrency: connections open at once, in each worker process.
    """

    http: HttpConfig
    concurrency: int = 32

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError("concurrency must be at least 1")
