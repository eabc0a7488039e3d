"""What people said of two models: majorities with their confidence, and who disagrees."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binomtest

from training.errors import InputError

QUESTIONS = ("realism", "match")
_CHOICES = ("first", "second")
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Votes:
    """One person's answers: page, who, and for each pair the model chosen by question."""

    page: str
    worker: str
    choices: dict[str, dict[str, str]]

    @property
    def person(self) -> str:
        """The worker, however the name was typed."""
        return self.worker.strip().casefold()


@dataclass(frozen=True)
class Preference:
    """How often the first model was preferred.

    Attributes:
        question: realism or match.
        pairs: that had enough votes.
        won: of these, by the first model with the majority.
        low, high: 95 % confidence interval of the share (Wilson).
        p_value: that people had no preference (two-sided binomial test).
        unanimous: share of pairs in which everybody agreed.
    """

    question: str
    pairs: int
    won: int
    low: float
    high: float
    p_value: float
    unanimous: float

    @property
    def share(self) -> float:
        """Of the pairs that the first model won."""
        return self.won / self.pairs


def read_votes(path: Path) -> Votes:
    """A file that the page saved.

    Raises:
        InputError: if it is something else, with what was expected.
    """
    try:
        value = json.loads(path.read_text())
        page, worker = value["page"], value["worker"]
        choices = {vote["id"]: {q: vote[q] for q in QUESTIONS} for vote in value["votes"]}
        if len(choices) < len(value["votes"]):
            raise ValueError("it votes twice on a pair")
        if not isinstance(worker, str) or not worker.strip():
            raise ValueError("it does not say who voted")
        if not all(c in _CHOICES for vote in choices.values() for c in vote.values()):
            raise ValueError("a choice is neither first nor second")
        return Votes(str(page), worker.strip(), choices)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is not a file of votes ({error!r}); expected what the page saves"
        ) from error


def _agreed(votes: Sequence[Votes]) -> None:
    if not votes:
        raise InputError("no file of votes was named")
    pages = {vote.page for vote in votes}
    if len(pages) > 1:
        raise InputError(f"the votes are of {len(pages)} different pages; count one page at a time")
    doubled = [name for name, n in Counter(vote.person for vote in votes).items() if n > 1]
    if doubled:
        raise InputError(f"{doubled[0]!r} voted in two files; leave one out")


def preferences(votes: Sequence[Votes], needed: int = 5) -> list[Preference]:
    """The majority of `needed` votes for each pair, as the paper asked (Figure 7, Appendix F).

    Args:
        votes: of one page, one entry a person, in any order; of more votes for a pair than needed
            those count whose hash of pair and person is the least.
        needed: votes that a pair must have; odd, so that there is a majority.

    Raises:
        InputError: if pages or persons are mixed, or no pair has enough votes.
    """
    if needed < 1 or needed % 2 == 0:
        raise InputError(f"a majority needs an odd number of votes, got {needed}")
    _agreed(votes)
    found = []
    for question in QUESTIONS:
        by_pair: dict[str, list[tuple[bytes, bool]]] = defaultdict(list)
        for vote in votes:
            for pair, choice in vote.choices.items():
                place = hashlib.sha256(json.dumps([pair, vote.person]).encode()).digest()
                by_pair[pair].append((place, choice[question] == "first"))
        counts = [
            sum(first for _, first in sorted(said)[:needed])
            for said in by_pair.values()
            if len(said) >= needed
        ]
        if not counts:
            most = max((len(said) for said in by_pair.values()), default=0)
            raise InputError(f"no pair has {needed} votes, the most is {most}; gather more")
        won = sum(count > needed / 2 for count in counts)
        test = binomtest(won, len(counts))
        interval = test.proportion_ci(_CONFIDENCE, "wilson")
        agreed = sum(count in (0, needed) for count in counts) / len(counts)
        found.append(
            Preference(question, len(counts), won, interval.low, interval.high, test.pvalue, agreed)
        )
    return found


def agreement(votes: Sequence[Votes]) -> dict[str, float]:
    """How often each person chose as the majority of the others did; a half is guessing."""
    found = {}
    for one in votes:
        same = total = 0
        for pair, choice in one.choices.items():
            for question in QUESTIONS:
                others = [
                    v.choices[pair][question] for v in votes if v is not one and pair in v.choices
                ]
                firsts = others.count("first")
                if 2 * firsts == len(others):
                    continue
                total += 1
                same += (choice[question] == "first") == (2 * firsts > len(others))
        if total:
            found[one.worker] = same / total
    return found
