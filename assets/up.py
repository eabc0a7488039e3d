"""Web UI, reports, daemon and the demonstration's web, until Ctrl-C: `python -m assets.up`."""

import argparse
import contextlib
import signal
import sys
import time
from pathlib import Path

import dagster as dg

from assets.lib import daemon, report_server, runs
from assets.lib.children import child
from assets.lib.home import UserError, dagster_home, require_port, require_python, whole_number
from assets.lib.settings import Settings, demo_directory

_DEMO_PORT = 8765
_PATIENCE_SECONDS = 10.0
_QUIET = ("--dagster-log-level", "warning", "--code-server-log-level", "warning")


def main() -> int:
    """Serve until SIGINT or SIGTERM."""
    argparse.ArgumentParser(prog="assets.up", description=__doc__).parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _as_interrupt)
    try:
        return _serve()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped")
        return 0


def _serve() -> int:
    home = dagster_home()
    require_python()
    port = report_server.web_port()
    require_port(port, "DALLE_PORT")
    # Wrong settings are told here; later they would be a code location that does not load.
    settings = Settings.from_environment()
    with contextlib.ExitStack() as stack:
        instance = stack.enter_context(dg.DagsterInstance.get())
        web = demo_directory() / "web"
        if (web / "truth.json").exists():
            _serve_small_web(stack, web)
        _serve_reports(stack, settings)
        log = home / "daemon.log"
        daemon_lives = stack.enter_context(daemon.running(instance, home, log))
        argv = [sys.executable, "-m", "dagster_webserver", "-w", "workspace.yaml"]
        process = stack.enter_context(child([*argv, "-p", str(port), *_QUIET], _PATIENCE_SECONDS))
        url = f"http://127.0.0.1:{port}"
        print(f"Dagster UI: {url} (daemon log: {log}); Ctrl-C stops all", flush=True)
        while process.poll() is None:
            if not daemon_lives():
                raise UserError(runs.DAEMON_ENDED)
            time.sleep(0.5)
    raise UserError("the web server ended; its output above says why")


def _serve_small_web(stack: contextlib.ExitStack, web: Path) -> None:
    """Serve the demonstration's web, so that its batch can be materialised from the UI too."""
    from pipelines.demo.server import DemoServer

    port = whole_number("DALLE_DEMO_PORT", _DEMO_PORT)
    require_port(port, "DALLE_DEMO_PORT")
    server = stack.enter_context(DemoServer(str(web), port))
    print(f"the demonstration's web: {server.url}", flush=True)


def _serve_reports(stack: contextlib.ExitStack, settings: Settings) -> None:
    """Serve the evaluations' reports, unless somebody else does."""
    if not report_server.elsewhere():
        port = report_server.port()
        require_port(port, "DALLE_REPORT_PORT")
        stack.enter_context(report_server.serving(settings.layout.evaluation, port))
    print(f"reports of evaluations: {report_server.address()}", flush=True)


def _as_interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
