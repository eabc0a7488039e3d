"""Averaged weights."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor, nn

from training.distributed.shards import local


class Ema:
    """An exponential moving average of a model's parameters, of this process's shards if sharded.

    Its first update takes the weights as they are. From then on the decay rises with the updates,
    (1 + n) / (10 + n), until it reaches its configured value, so that short runs do not average in
    their beginning.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.names = [name for name, _ in model.named_parameters()]
        self._live = [local(p.detach()) for p in model.parameters()]
        self._average = [self._store(p) for p in self._live]

    @staticmethod
    def _store(weights: Tensor) -> Tensor:
        return weights.clone()

    def update(self, count: int) -> None:
        """Take in the current weights; `count` updates of the average came before."""
        self._lerp(self._live, count)

    def tensors(self) -> dict[str, Tensor]:
        """The averaged weights by parameter name."""
        return dict(zip(self.names, self._average, strict=True))

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over `tensors()` of an earlier process."""
        for name, average in self.tensors().items():
            average.copy_(tensors[name])

    def _lerp(self, weights: list[Tensor], count: int) -> None:
        decay = min(self.decay, (1 + count) / (10 + count)) if count else 0.0
        torch._foreach_lerp_(self._average, weights, 1 - decay)


class OffloadedEma(Ema):
    """The same average, kept in host memory and off the training path (appendix B.2).

    `update` only starts a copy of the weights; a thread takes them in when they have arrived.
    The next optimiser step must wait for the copy, not for the thread: call `release` before it.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, decay)
        self._device = self._live[0].device
        self._cuda = self._device.type == "cuda"
        self._arrived = [torch.empty_like(p, pin_memory=self._cuda) for p in self._average]
        self._stream = torch.cuda.Stream(self._device) if self._cuda else None
        self._copied: torch.cuda.Event | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ema")
        self._work: Future[None] | None = None

    @staticmethod
    def _store(weights: Tensor) -> Tensor:
        return weights.to("cpu", copy=True)

    def update(self, count: int) -> None:
        """Begin to take in the current weights; the last call's must have been taken in."""
        self._wait()
        if self._stream is None:
            self._copy()
        else:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                self._copy()
                self._copied = self._stream.record_event()
        self._work = self._thread.submit(self._take_in, self._copied, count)

    def release(self) -> None:
        """Let the training stream change the weights only after they were copied."""
        if self._copied is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied)
            self._copied = None

    def tensors(self) -> dict[str, Tensor]:
        """The averaged weights by parameter name, in host memory."""
        self._wait()
        return super().tensors()

    def _copy(self) -> None:
        for here, there in zip(self._live, self._arrived, strict=True):
            there.copy_(here, non_blocking=True)

    def _take_in(self, copied: torch.cuda.Event | None, count: int) -> None:
        if copied is not None:
            copied.synchronize()
        self._lerp(self._arrived, count)

    def _wait(self) -> None:
        if self._work is not None:
            self._work.result()
            self._work = None
