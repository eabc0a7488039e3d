"""Let people compare two models: `python -m training.human_evaluation page|result ...`."""

from pathlib import Path
from typing import Annotated

import typer

from training import cli, outputs
from training.errors import InputError
from training.human.page import LISTING, pairs, render
from training.human.votes import agreement, preferences, read_votes

_GUESSING = 0.6

app = cli.new_app()


@app.callback()
def _commands() -> None:
    """Let people compare the pictures of two models, and count what they said."""


@app.command()
def page(
    first: Annotated[
        Path,
        typer.Argument(help=f"directory with {LISTING}, as training.evaluate --human writes it"),
    ],
    second: Annotated[Path, typer.Argument(help="the same of the other model")],
    output: Annotated[Path, typer.Option(help="the page, an HTML file")],
    count: Annotated[int, typer.Option(min=1, help="captions, at most")] = 1000,
    title: Annotated[str, typer.Option(help="heading of the page")] = "Which picture is better?",
) -> None:
    """Write a page that shows both models' pictures for the captions they have in common.

    It needs no server: send the file to people, and let each send back what it saves.
    """
    if output.is_dir():
        raise InputError(f"{output} is a directory; name a file for the page")
    chosen = pairs(first / LISTING, second / LISTING, count)
    outputs.require_writable(output.parent)
    temporary = output.with_name(f".{output.name}")
    temporary.write_text(render(chosen, title))
    temporary.replace(output)
    typer.echo(f"{output}: {len(chosen)} pairs")


@app.command()
def result(
    votes: Annotated[list[Path], typer.Argument(help="files that the page saved")],
    needed: Annotated[int, typer.Option(help="votes of a pair; the majority counts")] = 5,
) -> None:
    """Print how often the first model was preferred, with a 95 % confidence interval."""
    read = [read_votes(path) for path in votes]
    for found in preferences(read, needed):
        typer.echo(
            f"{found.question:8} first model preferred in {found.won} of {found.pairs} pairs: "
            f"{found.share:.1%} [{found.low:.1%}, {found.high:.1%}], p = {found.p_value:.2g}; "
            f"all {needed} agreed in {found.unanimous:.1%}"
        )
    for worker, share in sorted(agreement(read).items()):
        doubt = "; that is close to guessing" if share < _GUESSING else ""
        typer.echo(f"{worker} agrees with the others' majority in {share:.1%} of answers{doubt}")


if __name__ == "__main__":
    cli.run(app)
