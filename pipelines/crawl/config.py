"""Configuration of the crawl stage. It holds no secrets: it is hashed into fingerprints."""

import ipaddress
import re
from dataclasses import dataclass

_MOST_SECONDS = 3600


@dataclass(frozen=True)
class DomainLimit:
    """Another limit for one registrable domain, e.g. a content network that allows more.

    Attributes:
        domain: registrable domain (`example.co.uk`) or IP address.
        connections: open at once.
        delay_s: least time between the starts of two requests, in seconds.
    """

    domain: str
    connections: int
    delay_s: float

    def __post_init__(self) -> None:
        if self.connections < 1 or self.delay_s < 0:
            raise ValueError(f"{self.domain}: connections must be above 0, delay_s not negative")


@dataclass(frozen=True)
class HttpConfig:
    """How the crawler speaks to servers.

    Attributes:
        contact: URL or e-mail address in the User-Agent, for site owners who want to object.
        agent: product token, which robots.txt groups and X-Robots-Tag prefixes are matched with.
        deadline_s: limit of one whole exchange, name resolution and redirects included.
        min_bytes_per_s: slowest acceptable transfer of a body, measured from its third second on.
        max_bytes: limit of a body, before and after content decoding.
        max_redirects: redirects followed; each target is checked like the first URL.
        retries: further tries after an outcome that may pass (timeouts, 5xx ...).
        ports: TCP ports that may be connected to; in `allow_networks` every port may.
        allow_networks: networks that may be fetched from although they are not global,
            e.g. `127.0.0.0/8` for a server on this machine.
        nameservers: DNS servers as `ADDRESS` or `ADDRESS:PORT`; the system's if empty.
        ca_file: PEM file of further certificate authorities to trust.
        domain_connections: connections to one registrable domain at once.
        domain_delay_s: least time between the starts of two requests to one registrable domain.
        domain_limits: exceptions from the two.
        max_wait_s: longest wait for a domain's turn; then the URL is left for a later run.
        processes: worker processes that crawl at the same time; they share the domain limits out.

    Raises:
        ValueError: if a value makes no sense, naming it.
    """

    contact: str
    agent: str = "dalle-graph"
    deadline_s: float = 10.0
    min_bytes_per_s: int = 1_000
    max_bytes: int = 20_000_000
    max_redirects: int = 5
    retries: int = 1
    ports: tuple[int, ...] = (80, 443)
    allow_networks: tuple[str, ...] = ()
    nameservers: tuple[str, ...] = ()
    ca_file: str | None = None
    domain_connections: int = 4
    domain_delay_s: float = 0.25
    domain_limits: tuple[DomainLimit, ...] = ()
    max_wait_s: float = 60.0
    processes: int = 1

    def __post_init__(self) -> None:
        if not self.contact.strip() or not self.contact.isprintable():
            raise ValueError("contact is empty: set a URL or e-mail address that site owners reach")
        if not re.fullmatch("[A-Za-z_-]+", self.agent):
            raise ValueError(f"agent may hold letters, - and _ only (RFC 9309), got {self.agent!r}")
        for name in ("deadline_s", "max_bytes", "domain_connections", "processes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in (
            "retries", "max_redirects", "domain_delay_s", "max_wait_s", "min_bytes_per_s"
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("deadline_s", "domain_delay_s", "max_wait_s"):
            if not getattr(self, name) <= _MOST_SECONDS:
                raise ValueError(
                    f"{name} must be at most {_MOST_SECONDS} s, got {getattr(self, name)}"
                )
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
        takedown: file of URLs and domains of pages that must not be read; see `FetchConfig`.
    """

    http: HttpConfig
    rows_per_part: int = 2000
    pages_per_shard: int = 64
    takedown: str | None = None

    def __post_init__(self) -> None:
        if self.rows_per_part < 1 or self.pages_per_shard < 1:
            raise ValueError("rows_per_part and pages_per_shard must be at least 1")


@dataclass(frozen=True)
class FetchConfig:
    """How images are fetched.

    Attributes:
        http: `max_bytes` is the limit of an image.
        concurrency: connections open at once, in each worker process; fewer while many time out.
        takedown: file of URLs, domains and SHA-256 that must not be fetched or kept.
        max_attempts: requests for one URL over all runs; then a failure counts as final.
    """

    http: HttpConfig
    concurrency: int = 32
    takedown: str | None = None
    max_attempts: int = 6

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.max_attempts < 1:
            raise ValueError("concurrency and max_attempts must be at least 1")
