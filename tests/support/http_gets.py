"""One GET by a client of its own, and slow answers."""

import time

from pipelines.crawl.http.client import HttpClient, sniff_image
from pipelines.crawl.http.outcomes import Outcome

POLICY = ["/robots.txt", "/.well-known/tdmrep.json"]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


def after(seconds, answer):
    def attack(conn):
        time.sleep(seconds)
        conn.sendall(answer)

    return attack


def get(config, url):
    return HttpClient(config).get(url, sniff_image, Outcome.NOT_AN_IMAGE)
