"""The state of one exchange, from its first URL over redirects to its end."""

from dataclasses import dataclass, field

from pipelines.crawl.byte_budget import ByteBudget
from pipelines.crawl.consent.opt_out import OptOut, quoted
from pipelines.crawl.consent.robots import Unreachable
from pipelines.crawl.http.body import Wanted
from pipelines.crawl.http.deadline import Deadline, Patience
from pipelines.crawl.http.outcomes import FetchError, Outcome

_OF_THE_HOST = (Outcome.DNS, Outcome.CONNECT, Outcome.TLS)


@dataclass
class Try:
    """One exchange as far as it went.

    Attributes:
        url: where it is: redirects move it.
        wanted: the body wanted.
        deadline: of the whole exchange.
        patience: what it may wait for others. A chain of redirects over busy hosts, or over those
            with a slow robots.txt, must not hold a thread for as long as it likes.
        guarded: whether signals of opt-out end it; they do not apply to the files that hold them.
        budget: where the body's bytes are taken from.
        waited_s: how long it waited for turns, which moved the deadline.
        refused: whether something remembered ended it, so that another try would end alike.
    """

    url: str
    wanted: Wanted
    deadline: Deadline
    patience: Patience
    guarded: bool
    budget: ByteBudget
    waited_s: float = field(default=0.0, init=False)
    refused: bool = field(default=False, init=False)
    status: int | None = field(default=None, init=False)
    content_type: str = field(default="", init=False)
    opt_out: OptOut | None = field(default=None, init=False)

    def refuse_if(self, signal: OptOut | Unreachable | None) -> None:
        """End here if there is a signal.

        Raises:
            FetchError: `opted_out`; where robots.txt could not be had, `robots_unreachable`, or the
                reason if that concerns the whole host.
        """
        if signal is None:
            return
        self.refused = True
        text = quoted(signal.text)
        outcome = Outcome.OPTED_OUT
        if isinstance(signal, Unreachable):
            outcome = Outcome.ROBOTS_UNREACHABLE
            if signal.reason in _OF_THE_HOST:
                outcome = signal.reason
        if outcome not in _OF_THE_HOST:
            self.opt_out = OptOut(signal.signal, text)
        raise FetchError(outcome, f"{signal.signal}: {text}")
