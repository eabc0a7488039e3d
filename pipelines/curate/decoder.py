"""Decoding under limits: a process of its own, and what to do when it dies.

A child process for each worker, asked one image at a time, so that a crash, an endless decoding
or a blow-up of memory is known to be of that image and costs that row only. It is a plain program
rather than a `multiprocessing` process: Dask's workers are daemons, which may not have those, and
forking a process with threads is not safe.
"""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import weakref

from PIL import Image

from pipelines.curate import wire
from pipelines.curate.config import CurateConfig
from pipelines.curate.measure import Limits, Measured
from pipelines.curate.reasons import Reason
from pipelines.curate.wire import Pictured, Refused

# A machine may be so busy that CPU seconds take this many times as long.
_PATIENCE = 20
_START_SECONDS = 120
_STARTS = 5
# Room for most files, so that it seldom has to grow.
_SHARED_BYTES = 1 << 22
_SUITED = {
    # Each thread has a stack and an arena of the address space.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Else glibc gives an image's pages back after each and faults them in again: 10 % of the time.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 27),
}
log = logging.getLogger(__name__)


class Decoder:
    """Asks a decoder process, which starts with the first question.

    Not for several threads at once. The process ends with this object, or with this process.
    """

    def __init__(self, config: CurateConfig):
        self._config = config
        self._child: _Child | None = None

    def measure(self, data: bytes | memoryview) -> Measured | Refused:
        """The measures of a file, or why there are none."""
        answer = self._ask(wire.MEASURE, data)
        assert isinstance(answer, Measured | Refused)
        return answer

    def picture(self, data: bytes) -> Pictured | Refused:
        """The picture of a file, reduced if it is large, or why there is none."""
        answer = self._ask(wire.PICTURE, data)
        assert isinstance(answer, Pictured | Refused)
        return answer

    def show(self, data: bytes) -> Image.Image | None:
        """A picture of at most 64x64 pixels; None if the file is refused."""
        answer = self._ask(wire.EXHIBIT, data)
        return answer if isinstance(answer, Image.Image) else None

    def close(self) -> None:
        """End the decoder process; a further question starts another."""
        if self._child is not None:
            self._child.end()
            self._child = None

    @property
    def pid(self) -> int | None:
        """Id of the decoder process, None while there is none."""
        return None if self._child is None else self._child.process.pid

    def _ask(self, kind: bytes, data: bytes | memoryview) -> wire.Answer:
        """Ask; a row is refused for a failure only if it fails in a fresh process, too.

        What killed the first may have been somebody else (an operator, a machine out of memory),
        and memory may have been short because of the images before.
        """
        fresh = self._child is None
        try:
            return self._ask_once(kind, data)
        except _Lost as lost:
            self.close()
            if fresh or lost.surely:
                return lost.refused
        try:
            return self._ask_once(kind, data)
        except _Lost as lost:
            self.close()
            return lost.refused

    def _ask_once(self, kind: bytes, data: bytes | memoryview) -> wire.Answer:
        config = self._config
        child = self._child = self._child or _started(config)
        try:
            answer = child.ask(kind, data)
        except TimeoutError as error:
            raise _Lost(Reason.DECODER_LIMITS, "no answer") from error
        except (EOFError, OSError, ValueError) as error:
            status = child.end()
            if status == -signal.SIGXCPU:
                detail = f"over {config.decoder_seconds} CPU seconds"
                raise _Lost(Reason.DECODER_LIMITS, detail, surely=True) from error
            log.warning("the decoder process ended (%s) %s", _words(status), error)
            raise _Lost(Reason.DECODER_CRASHED, _words(status)) from error
        if answer is None:
            detail = f"needs more than {config.decoder_memory >> 20} MiB"
            raise _Lost(Reason.DECODER_LIMITS, detail)
        return answer


class _Lost(Exception):  # noqa: N818 - becomes a refused row
    """No answer; `surely` if the image alone is to blame."""

    def __init__(self, reason: Reason, detail: str, surely: bool = False):
        super().__init__(detail)
        self.refused = Refused(reason, detail)
        self.surely = surely


class _Child:
    """One decoder process and the socket to it."""

    def __init__(self, config: CurateConfig):
        self._connection, theirs = socket.socketpair()
        file = os.memfd_create("decoder")
        answer = wire.largest_answer(config.short_side, config.min_aspect, config.max_aspect)
        size = max(_SHARED_BYTES, answer)
        os.ftruncate(file, size)
        self.process = _start(config, theirs, file)
        self._finalizer = weakref.finalize(self, _end, self.process, self._connection, file)
        self._channel = wire.Channel(self._connection, file, size)
        self._connection.settimeout(_START_SECONDS)
        try:
            ready = self._connection.recv(len(wire.READY), socket.MSG_WAITALL)
        except OSError:
            ready = b""
        if ready != wire.READY:
            raise _NotStartedError(_words(self.end()))
        self._connection.settimeout(_PATIENCE * config.decoder_seconds)

    def ask(self, kind: bytes, data: bytes | memoryview) -> wire.Answer | None:
        """The answer, None if there was not enough memory."""
        self._channel.make_room(len(data))
        self._channel.send(kind, data)
        return wire.unpack(*self._channel.receive())

    def end(self) -> int:
        """Exit status, negative for a signal; the process is killed if it still runs."""
        self._finalizer()
        return self.process.returncode


class _NotStartedError(RuntimeError):
    """How the process ended instead."""


def _started(config: CurateConfig) -> _Child:
    """A decoder process; started again if something else killed it.

    Raises:
        RuntimeError: if that was not the reason.
    """
    for _ in range(_STARTS):
        try:
            return _Child(config)
        except _NotStartedError as error:
            reason = error
    raise RuntimeError(f"the decoder process does not start ({reason}); see its error output")


def _start(config: CurateConfig, theirs: socket.socket, file: int) -> subprocess.Popen[bytes]:
    names = {field.name for field in dataclasses.fields(Limits)}
    limits = {n: v for n, v in dataclasses.asdict(config).items() if n in names}
    arguments = [json.dumps(limits), str(config.decoder_memory), str(config.decoder_seconds)]
    with theirs:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.curate.decoder_child", str(file), *arguments],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            pass_fds=[file],
            env=_environment(),
        )


def _end(process: subprocess.Popen[bytes], connection: socket.socket, file: int) -> None:
    connection.close()
    os.close(file)
    # Whoever waits for the next question ends by itself; whoever decodes does not.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.kill()
    process.wait()


def _environment() -> dict[str, str]:
    """This process's, with its import path and what suits a decoder."""
    return os.environ | _SUITED | {"PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}


def _words(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
