"""Run the demonstration: `python -m assets.demo` (which `make demo` calls)."""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg

from assets.demo import results
from assets.demo.plan import BATCH, CRAWLING, PLAN, Launch, remaining, settings_hash
from assets.demo.terminal import Progress, complain, say
from assets.lib import daemon, runs
from assets.lib.home import (
    UserError,
    dagster_home,
    require_port,
    require_python,
    require_space,
    whole_number,
)
from assets.lib.settings import Settings, demo_directory

_GIGABYTES = 3.0
_DEFAULT_PORT = 8765


def main() -> int:
    """Run what is missing, collect the results; 0 if all is there afterwards."""
    argparse.ArgumentParser(prog="assets.demo", description=__doc__).parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _as_interrupt)
    try:
        started = time.monotonic()
        _demonstrate()
        say(f"done in {time.monotonic() - started:.0f} s")
        say(f"Look at {demo_directory() / results.SHEET}; `make up` opens the Dagster UI.")
    except UserError as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        complain("interrupted; everything is stopped, and `make demo` goes on from here")
        return 130
    return 0


def _demonstrate() -> None:
    home = dagster_home()
    require_python()
    directory, port = demo_directory(), whole_number("DALLE_DEMO_PORT", _DEFAULT_PORT)
    require_space(directory, _GIGABYTES)
    settings = Settings.from_environment()
    with dg.DagsterInstance.get() as instance:
        # Loaded here only for the code versions; the run workers load it by themselves.
        from assets.definitions import defs

        launches = remaining(instance, defs, settings)
        if launches:
            crawls = any(launch.job in CRAWLING for launch in launches)
            with _small_web(instance, settings, directory, port) if crawls else _nothing():
                log = directory / "daemon.log"
                say(f"starting the Dagster daemon (its output: {log})")
                with daemon.running(instance, home, log) as daemon_lives:
                    _launch_all(instance, settings, launches, daemon_lives)
        else:
            say("every stage is finished and current; nothing to run")
    say(results.funnel_text(settings.layout))
    for line in results.collect(settings, directory / "web", directory):
        say(line)


def _launch_all(
    instance: dg.DagsterInstance,
    settings: Settings,
    launches: list[Launch],
    daemon_lives: Callable[[], bool],
) -> None:
    total = sum(len(launch.assets) for launch in PLAN)
    done = total - sum(len(launch.assets) for launch in launches)
    if done:
        say(f"{done} of {total} assets are finished and current")
    for launch in launches:
        say(f"dagster job launch -j {launch.job}")
        progress = Progress(total, done)
        run_id = runs.launch(launch.job, launch.tags(settings_hash(settings)))
        status = runs.follow(instance, run_id, progress, daemon_lives)
        done += len(launch.assets)
        if status is not dg.DagsterRunStatus.SUCCESS:
            reason = "\n".join(progress.errors) or f"the run ended as {status.value}"
            raise UserError(
                f"{launch.job} failed. {reason}\nThe run {run_id} has the whole log: `make up`, "
                "then Runs. `make demo` goes on from what is finished."
            )


@contextlib.contextmanager
def _small_web(
    instance: dg.DagsterInstance, settings: Settings, directory: Path, port: int
) -> Iterator[None]:
    """Build and serve the small web, and register it as a crawl batch."""
    from assets.batches import register
    from pipelines.crawl.batches import CrawlBatch, Source, SourceKind
    from pipelines.demo.server import DemoServer
    from pipelines.demo.web import build_web

    require_port(port, "DALLE_DEMO_PORT")
    limit = whole_number("DALLE_DEMO_LIMIT", 0) or None
    say("building a small web of emoji pictures")
    web = build_web(str(directory / "web"), f"http://127.0.0.1:{port}", limit)
    source = Source("small-web", SourceKind.SITEMAP, (web.sitemap,))
    register(CrawlBatch(BATCH, (source,)), settings.layout, instance)
    with DemoServer(web.directory, port) as server:
        say(f"serving it at {server.url}: {web.counts['pages']} pages")
        yield


def _nothing() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def _as_interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
