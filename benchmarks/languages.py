"""How the language detectors judge short captions in many languages.

`python -m benchmarks.languages STAMPS` prints, for captions of up to 2, 3 to 5, and 6 or more
words, how much English each detector keeps and how much of anything else it lets in, at some
least probabilities; and then the confusion table. STAMPS holds what the Debian package
`tuxpaint-stamps-default` installs: pictures' captions in English and 76 other languages

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb STAMPS
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.curate.captions import word_count
from pipelines.curate.config import DETECTORS
from pipelines.curate.language import load_detector
from pipelines.identity import normalise_caption

_ENGLISH = "en"
# English too, of another country: translators changed a word here and there.
_VARIANTS = ("en_GB", "en_CA", "en_AU", "en_ZA")
_LENGTHS = ((1, 2), (3, 5), (6, 10**6))
_BINS = dict(zip(("1-2", "3-5", "6+"), _LENGTHS, strict=True))
_BINS |= {"all": (1, 10**6), "3+": (3, 10**6)}
# The package's languages among the twenty that most web pages are in.
_FREQUENT = [
    *("ru", "es", "de", "fr", "ja", "pt", "pt_BR", "tr", "it", "fa", "nl", "pl", "zh_CN", "zh_TW"),
    *("vi", "id", "cs", "ko", "uk", "ar", "el", "hu", "sv", "ro"),
]
_SCORES = (0.0, 0.3, 0.5, 0.7, 0.9)
_MOST_CONFUSED = 12
# What fewer captions are called is added up.
_NAMED_PERCENT = 2


@dataclass(frozen=True)
class Labelled:
    """Captions with their language and their number of words."""

    captions: list[str]
    languages: np.ndarray
    words: np.ndarray


def read_stamps(folder: Path) -> Labelled:
    """Every different caption of a language below `folder`; translations that are the English
    text itself are left out.

    Raises:
        FileNotFoundError: if there is none.
    """
    found: set[tuple[str, str]] = set()
    for path in sorted(folder.rglob("*.txt")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if not lines or not lines[0].strip():
            continue
        english = normalise_caption(lines[0])
        found.add((_ENGLISH, english))
        for line in lines[1:]:
            code, equals, text = line.partition(".utf8=")
            caption = normalise_caption(text)
            if equals and caption and caption != english and code not in _VARIANTS:
                found.add((code, caption))
    if not found:
        raise FileNotFoundError(f"no captions below {folder}; unpack tuxpaint-stamps-default there")
    rows = sorted(found)
    captions = [caption for _, caption in rows]
    words = np.asarray(word_count(pa.array(captions, pa.string())))
    return Labelled(captions, np.array([code for code, _ in rows]), words)


def table(stamps: Labelled, found: np.ndarray, scores: np.ndarray) -> list[str]:
    """Shares that are kept as English, by words and least probability.

    Of English, of all other languages alike, and of those that are frequent on the web.
    """
    heads = "".join(f"{f'p >= {score:.1f}':>24}" for score in _SCORES)
    lines = [f"{'words':6} {'English':>8} {'others':>8}{heads}"]
    english = stamps.languages == _ENGLISH
    frequent = np.isin(stamps.languages, _FREQUENT)
    for name, (least, most) in _BINS.items():
        inside = (stamps.words >= least) & (stamps.words <= most)
        cells = []
        for score in _SCORES:
            kept = (found == _ENGLISH) & (scores >= score)
            groups = (english, ~english, frequent)
            shares = [_share(kept[inside & group]) for group in groups]
            cells.append(f"{shares[0]:7.1%} {shares[1]:7.2%} {shares[2]:7.2%}")
        counts = [int((inside & group).sum()) for group in (english, ~english)]
        lines.append(f"{name:6} {counts[0]:8,} {counts[1]:8,}  " + " ".join(cells))
    return lines


def _share(kept: np.ndarray) -> float:
    return float(kept.mean()) if len(kept) else 0.0


def confusions(stamps: Labelled, found: np.ndarray) -> list[str]:
    """Of captions of three words or more: what English was taken for, and who was for English."""
    long = stamps.words >= _BINS["3+"][0]
    english = stamps.languages == _ENGLISH
    taken = Counter(found[long & english]).most_common(_MOST_CONFUSED)
    total = max(1, int((long & english).sum()))
    lines = ["English is called  " + "  ".join(f"{c} {n / total:.1%}" for c, n in taken)]
    let_in = []
    for code in sorted(set(stamps.languages) - {_ENGLISH}):
        rows = long & (stamps.languages == code)
        if rows.any():
            let_in.append((float((found[rows] == _ENGLISH).mean()), str(code)))
    worst = sorted(let_in, reverse=True)[:_MOST_CONFUSED]
    lines.append("called English     " + "  ".join(f"{code} {share:.1%}" for share, code in worst))
    return lines


def full_table(stamps: Labelled, found: dict[str, np.ndarray]) -> list[str]:
    """The confusion table as Markdown: a row for each language, two cells for each detector.

    The first is the percentage that is called English, of captions of 1-2, 3-5, and 6+ words;
    the second is what those of three words or more are called, in per cent.
    """
    heads = "".join(f" {name}: en % | {name}: called, % |" for name in found)
    lines = [f"| language | captions |{heads}", "|---|---|" + "---|---|" * len(found)]
    bins = [(stamps.words >= least) & (stamps.words <= most) for least, most in _LENGTHS]
    long = stamps.words >= _BINS["3+"][0]
    for code in sorted(set(stamps.languages), key=lambda c: (c != _ENGLISH, c)):
        rows = stamps.languages == code
        cells = [str(code), " / ".join(f"{int((rows & inside).sum()):,}" for inside in bins)]
        for detected in found.values():
            english = [_percent(detected[rows & inside] == _ENGLISH) for inside in bins]
            cells += [" / ".join(english), _called(detected[rows & long])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _percent(mask: np.ndarray) -> str:
    return f"{100 * mask.mean():.0f}" if len(mask) else "-"


def _called(detected: np.ndarray) -> str:
    """The languages that captions are called, the most frequent first, rare ones together."""
    shares = [(code, 100 * n / len(detected)) for code, n in Counter(detected).most_common()]
    named = [(code, share) for code, share in shares if share >= _NAMED_PERCENT]
    rest = 100 - sum(share for _, share in named)
    words = [f"{code} {share:.0f}" for code, share in named]
    return ", ".join([*words, f"others {rest:.0f}"] if rest >= 0.5 else words)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.languages", description=__doc__)
    parser.add_argument("stamps", type=Path, metavar="STAMPS", help="the unpacked package")
    parser.add_argument("--full", action="store_true", help="every language's row, as Markdown")
    options = parser.parse_args(arguments)
    stamps = read_stamps(options.stamps)
    codes = len(set(stamps.languages))
    print(f"{len(stamps.captions):,} different captions in {codes} languages")
    called = {}
    for name in DETECTORS:
        detect = load_detector(name)
        start = time.process_time()
        detected = detect(stamps.captions)
        rate = len(stamps.captions) / (time.process_time() - start)
        found, scores = (np.asarray(column.to_pylist()) for column in detected)
        print(
            f"\n{name}: {rate:,.0f} captions/s; English kept, others let in, frequent ones let in"
        )
        print("\n".join(table(stamps, found, scores) + confusions(stamps, found)))
        called[name] = found
    if options.full:
        print("\n" + "\n".join(full_table(stamps, called)))


if __name__ == "__main__":
    main()
