"""A real browser for tests: Debian's Chromium, driven by Playwright."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
_INSTALL_S = 600


def chromium() -> str:
    """Path of Chromium; installed by apt where the user may do so, else the test is skipped."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found:
        return found
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.skip("there is no Chromium; install the package chromium")
    for command in (["apt-get", "-qy", "update"], ["apt-get", "-qy", "install", "chromium"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S)
    path = shutil.which("chromium")
    if path is None:
        pytest.skip(f"Chromium cannot be installed: {(done.stderr or done.stdout)[-300:]}")
    return path


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A headless browser with a fresh profile."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=_FLAGS)
        try:
            yield opened
        finally:
            opened.close()
