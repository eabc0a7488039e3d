"""Which model is the promoted one, and its change: `python -m training.promote COMMAND`."""

import getpass
from typing import Annotated

import typer

from pipelines import storage
from pipelines.layout import Layout, join
from training import cli
from training.errors import InputError
from training.promotion import log, move, versions
from training.promotion.comparison import Comparison
from training.promotion.gate import Limits
from training.promotion.gate import compare as compare_models
from training.promotion.log import Entry
from training.reporting import Reporter

_SHOWN = 20

app = cli.new_app()

DataRoot = Annotated[str, typer.Option(metavar="DIR", help="Data root: a directory or fsspec URL.")]
Margin = Annotated[
    float,
    typer.Option(min=0, help="Nats per image token, and of caption gain, that may be lost."),
]
LeastPerplexity = Annotated[
    float | None, typer.Option(min=1, help="Of the dataset's codes.", show_default="the recipe's")
]
Reason = Annotated[str, typer.Option(help="Why; it stays in the log.")]
By = Annotated[str, typer.Option(help="Who does it.", show_default="the user's name")]


@app.callback()
def _commands() -> None:
    """The promoted model: a copy of dVAE and transformer that no training overwrites.

    `promote` copies what was trained last below models/promoted/ and lets the log there name it, if
    it passes: weights finite, codebook alive, no regression against the promoted one, not taken
    back before. `overrule` promotes one that did not pass.

    \b
    python -m training.promote show --data-root demo/data
    python -m training.promote promote --data-root demo/data
    python -m training.promote overrule --data-root demo/data --reason "a new dVAE; looked at it"
    python -m training.promote roll-back --data-root demo/data --reason "draws no people"
    """


@app.command()
def show(
    data_root: DataRoot,
    path: Annotated[bool, typer.Option("--path", help="Print its directory alone.")] = False,
) -> None:
    """Print the promoted model, the log, and how to draw with it."""
    layout = _layout(data_root)
    entries = log.history(layout)
    if not entries:
        raise log.PromotionError(f"nothing was promoted below {layout.root} yet")
    model = entries[-1].model
    directory = versions.directory(layout, model.version)
    if path:
        typer.echo(directory)
        return
    for entry in entries[-_SHOWN:]:
        typer.echo(_line(entry))
    typer.echo(f"recipe {model.recipe}, {model.rows} rows, dVAE {model.dvae_sha256[:12]}")
    # The dVAE and the dataset are found from there.
    typer.echo(
        f"python -m training.sample --checkpoint {join(directory, versions.DALLE)} --out DIR"
    )


@app.command()
def compare(
    data_root: DataRoot,
    margin: Margin = Limits.margin,
    least_perplexity: LeastPerplexity = None,
    record: Annotated[
        bool,
        typer.Option("--record", help="Let the assets' checks and promotion rest on it."),
    ] = False,
) -> None:
    """Measure what was trained last; nothing is promoted."""
    layout = _layout(data_root)
    found = _compared(layout, margin, least_perplexity)
    if record:
        found.write(layout)


@app.command()
def promote(
    data_root: DataRoot,
    margin: Margin = Limits.margin,
    least_perplexity: LeastPerplexity = None,
    reason: Annotated[
        str, typer.Option(help="Why, where limits are given; it stays in the log.")
    ] = "",
    by: By = "",
) -> None:
    """Promote what was trained last, if it passes.

    Else the promoted one stays, and the exit status is 2.
    """
    own_limits = margin != Limits.margin or least_perplexity is not None
    if own_limits and not reason.strip():
        raise InputError("a promotion by limits of your own needs --reason, which stays in the log")
    layout = _layout(data_root)
    found = _compared(layout, margin, least_perplexity)
    passed = f"passed every check{' by limits of its own' if own_limits else ''}"
    why = f"{passed}: {reason}" if reason.strip() else passed
    typer.echo(_line(move.promote(layout, found, who=by or getpass.getuser(), why=why)))


@app.command()
def overrule(
    data_root: DataRoot,
    reason: Reason,
    margin: Margin = Limits.margin,
    least_perplexity: LeastPerplexity = None,
    by: By = "",
) -> None:
    """Promote what was trained last although it does not pass.

    Weights that are not finite cannot be overruled.
    """
    layout = _layout(data_root)
    found = _compared(layout, margin, least_perplexity)
    typer.echo(_line(move.overrule(layout, found, who=by or getpass.getuser(), why=reason)))


@app.command()
def roll_back(
    data_root: DataRoot,
    reason: Reason,
    version: Annotated[
        str, typer.Argument(metavar="[VERSION]", help="v=...", show_default="the one before")
    ] = "",
    by: By = "",
) -> None:
    """Promote an earlier version again.

    The present one is refused from then on, unless somebody overrules that.
    """
    who = by or getpass.getuser()
    typer.echo(_line(move.roll_back(_layout(data_root), version, who=who, why=reason)))


@app.command()
def remove(
    data_root: DataRoot,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VERSION]...", help="Names v=...", show_default=False),
    ] = None,
) -> None:
    """Delete versions that nobody needs; or list them.

    Refuses the promoted one, and the one that its training began with.
    """
    layout = _layout(data_root)
    for name in names or ():
        with versions.only_promotion(layout):
            versions.remove(layout, name)
        typer.echo(f"{name} removed")
    if not names:
        promoted = log.current(layout)
        for name in versions.kept(layout):
            mark = "  promoted" if promoted and promoted.model.version == name else ""
            typer.echo(f"v={name}{mark}")


def _layout(data_root: str) -> Layout:
    root = data_root.rstrip("/")
    if not storage.exists(root):
        raise log.PromotionError(f"there is no data root {root}")
    return Layout(root)


def _compared(layout: Layout, margin: float, least_perplexity: float | None) -> Comparison:
    with Reporter(None, 1) as reporter:
        found = compare_models(layout, Limits(margin, least_perplexity))
        reporter.log(1, found.figures)
    typer.echo(f"v={found.candidate.version} beside v={found.promoted or 'none'}")
    for check, problems in found.problems.items():
        typer.echo(f"  {check:22} {'; '.join(problems) or 'passed'}")
    return found


def _line(entry: Entry) -> str:
    words = [entry.when, entry.action, f"v={entry.model.version}", f"by {entry.who}:", entry.why]
    return f"{entry.number:>4}  " + "  ".join(words)


if __name__ == "__main__":
    cli.run(app)
