"""Hosts with robots.txt files, and what the files allow."""

import time

from protego import Protego

from pipelines.crawl.consent.robots import HostRules, RobotsFile
from pipelines.crawl.consent.robots_rules import read_robots, spelled

AGENT = "our-bot"
NONE = RobotsFile(404, "")


class Rules(HostRules):
    """Rules with one way to fetch."""

    def __init__(self, agent, fetch, clock=time.monotonic):
        super().__init__(agent, clock)
        self.fetch = fetch

    def forbids(self, url):
        return super().forbids(url, self.fetch)


class Web:
    """What hosts answer, and what they were asked."""

    def __init__(self, files: dict[str, RobotsFile], clock: list[float] | None = None):
        self.files = files
        self.asked: list[str] = []
        self.clock = clock or [0.0]
        self.rules = Rules("Our-Bot", self.fetch, lambda: self.clock[0])

    def fetch(self, address: str) -> RobotsFile:
        self.asked.append(address)
        return self.files.get(address, NONE)


def web(text: str, status: int | None = 200) -> Web:
    return Web({"http://h/robots.txt": RobotsFile(status, text)})


def allows(text: str, path: str, agent: str = AGENT) -> bool:
    return read_robots(text, agent).disallowing(spelled(path)) is None


def protego_allows(text: str, path: str, agent: str = AGENT) -> bool:
    return Protego.parse(text).can_fetch(f"http://h{path}", agent)
