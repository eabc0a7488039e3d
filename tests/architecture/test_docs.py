"""The pages say what is so: links, lengths, commands and their options, variables, paths."""

import importlib.util
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")])
LONGEST, WIDEST = 100, 120
# Lines that some pages may have: the first page of all, and what a program writes.
LONGER = {"README.md": 220, "columns.md": 200}
ROOMS = ("assets", "benchmarks", "deploy", "docs", "pipelines", "tests", "training")
# Programs with commands of their own.
GROUPS = ("assets.batches", "training.human_evaluation", "training.promote")
VARIABLE = re.compile(r"DALLE_[A-Z_]*[A-Z]\b")
CODE = ("assets", "deploy", "pipelines", "training", "Makefile")

Command = tuple[str, ...]


@cache
def text(page: Path) -> str:
    return page.read_text()


def parts(page: Path) -> tuple[str, list[str]]:
    """A page's prose, and the lines of its code blocks with continued ones joined."""
    prose: list[str] = []
    code: list[str] = []
    fenced = False
    for line in text(page).splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            code.append(line)
        else:
            prose.append(line)
    return "\n".join(prose), re.sub(r"\\\n\s*", "", "\n".join(code)).splitlines()


def snippets(page: Path) -> Iterator[str]:
    """Every line of code, without its comment, and every span of code in the prose."""
    prose, code = parts(page)
    for line in code:
        yield re.split(r"(?:^|\s)#\s", line)[0]
    for span in re.findall(r"`([^`]+)`", prose):
        yield " ".join(span.split())


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", parts(page)[0], re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", parts(page)[0]):
        if re.match(r"\w+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_linked() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s:]+)\)", parts(page)[0])
    }
    assert set(DOCS.glob("*.md")) <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_short(page: Path) -> None:
    lines = text(page).splitlines()
    assert len(lines) <= LONGER.get(page.name, LONGEST)
    # A row of a table cannot be wrapped.
    wide = [line for line in lines if len(line) > WIDEST and not line.startswith("|")]
    assert not wide


def programs(snippet: str) -> Iterator[tuple[Command, list[str]]]:
    """Programs of ours and Dagster's that a line of shell starts, with their long options."""
    inner = re.findall(r"\$\(([^()]*)\)", snippet)
    outer = re.sub(r"\$\([^()]*\)", "INNER", snippet)
    for piece in (*inner, *re.split(r"\s(?:\||&&|;)\s", outer)):
        try:
            words = shlex.split(piece)
        except ValueError:
            continue
        yield from _started(words)


def _started(words: list[str]) -> Iterator[tuple[Command, list[str]]]:
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if not words:
        return
    if words[0] == "dagster":
        named = itertools.takewhile(str.isalpha, words[1:])
        yield ("dagster", *named), _options(words)
        return
    if words[0] == "torchrun":
        words = ["training.launch", *words[1:]]
    elif re.search(r"(^|/)python$", words[0]) and words[1:2] == ["-m"]:
        words = words[2:]
    elif len(words) == 1:
        # A module that the prose names.
        return
    if not words or not re.fullmatch(r"(assets|benchmarks|pipelines|training)(\.\w+)+", words[0]):
        return
    program, rest = words[0], words[1:]
    if program == "training.launch" and "-m" in rest:
        module = rest.index("-m")
        yield from _started(["python", *rest[module:]])
        rest = rest[:module]
    command = rest[:1] if program in GROUPS and rest and not rest[0].startswith("-") else []
    yield (program, *command), _options(rest)


def _options(words: list[str]) -> list[str]:
    return [found[0] for word in words if (found := re.match(r"--\w[\w-]*", word))]


def shown() -> dict[Command, dict[str, str]]:
    """Of every program on a page, each option and a page that shows it."""
    found: dict[Command, dict[str, str]] = {}
    for page in PAGES:
        for snippet in snippets(page):
            for command, options in programs(snippet):
                found.setdefault(command, {}).update(dict.fromkeys(options, page.name))
    return found


def listed(printed: str) -> set[str]:
    """Options that a `--help` explains, not those that its text only mentions."""
    lines = (line.strip() for line in printed.splitlines())
    heads = (re.split(r"\s{2,}", line)[0] for line in lines if line.startswith("-"))
    return {option for head in heads for option in re.findall(r"--\w[\w-]*", head)}


def test_every_program_is_there() -> None:
    commands = shown()
    assert len(commands) > 40
    for command in commands:
        spec = importlib.util.find_spec(command[0])
        assert spec is not None, command
        if spec.submodule_search_locations:
            assert importlib.util.find_spec(f"{command[0]}.__main__"), command
        elif command[0] != "dagster":
            assert spec.origin
            assert "__main__" in Path(spec.origin).read_text(), command


def test_every_command_and_option_is_one_of_its_program() -> None:
    # A program of which no option is shown need not know `--help`.
    asked = {
        command: options for command, options in shown().items() if options or len(command) > 1
    }
    helper = ROOT / "tests" / "support" / "program_help.py"
    done = subprocess.run(
        [sys.executable, helper],
        input=json.dumps(list(asked)),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    helps = dict(zip(asked, json.loads(done.stdout), strict=True))
    wrong = [
        f"{page}: {' '.join(command)} has no {option}"
        for command, options in asked.items()
        for option, page in options.items()
        if option not in listed(helps[command])
    ]
    wrong += [
        " ".join(command)
        for command, printed in helps.items()
        if re.search("No such command|invalid choice", printed)
    ]
    assert not wrong


def test_every_target_of_make_is_there() -> None:
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        for snippet in snippets(page):
            for target in re.findall(r"^\s*(?:\w+=\S+ )*make ([a-z]+)", snippet):
                assert target in targets, f"{page.name}: make {target}"


def test_variables_are_those_of_the_code() -> None:
    on_pages = {name for page in PAGES for name in VARIABLE.findall(text(page))}
    files = [
        path
        for name in CODE
        for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    ]
    in_code = {name for path in files for name in VARIABLE.findall(path.read_text())}
    # What both call DALLE_CRAWL_... is no name.
    assert on_pages == in_code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_is_there(page: Path) -> None:
    for snippet in snippets(page):
        if snippet.lstrip().startswith("kubectl"):
            continue
        for path in re.findall(rf"(?<![\w/.])(?:{'|'.join(ROOMS)})/[\w./-]+", snippet):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_paper_map_names_files_and_tests() -> None:
    rows = [line.split("|") for line in text(DOCS / "paper_map.md").splitlines() if "`" in line]
    rows = [row for row in rows if len(row) == 6]
    assert len(rows) > 40
    for *_, files, tests, _ in rows:
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", files):
            assert (ROOT / name).exists() or (ROOT / "training" / name).exists(), name
        for name in re.findall(r"`([\w/]+)`", tests):
            room, _, module = name.rpartition("/")
            assert (ROOT / "tests" / (room or "training") / f"test_{module}.py").exists(), name
