"""`python -m pipelines.publish.remove`: delete versions that nobody needs."""

from typing import Annotated

import typer

from pipelines import commands, storage
from pipelines.layout import Layout, join
from pipelines.ledger import SUCCESS
from pipelines.publish import versions
from pipelines.publish.use import uses


def remove(layout: Layout, version: str) -> None:
    """Delete a version and its rejects, or what is left of one.

    Readers see all of it or nothing, and a removal that was killed is ended by the next one.

    Raises:
        FileNotFoundError: if there is no such version.
        ValueError: if it is the current one, or a model or checkpoint was trained on it.
    """
    name = version.rsplit("/", 1)[-1].removeprefix("v=")
    with versions.only_publication(layout.token_dataset):
        directory = versions.version_directory(layout, name)
        if directory not in (*versions.versions(layout), *versions.unfinished(layout)):
            known = ", ".join(url.rsplit("/", 1)[1] for url in versions.versions(layout))
            raise FileNotFoundError(f"{directory} is no version; there are: {known or 'none'}")
        if versions.current(layout) == name:
            raise ValueError(f"v={name} is the current version; publish another one first")
        users = [use.path for use in uses(layout) if use.version == name]
        if users:
            raise ValueError(
                f"v={name} was used to train {', '.join(users)}; remove these first, or keep it"
            )
        storage.remove(join(directory, SUCCESS))
        storage.remove(layout.rejects("publish", name), recursive=True)
        storage.remove(directory, recursive=True)


def main(
    data_root: Annotated[
        str, typer.Option(metavar="DIR", help="Data root: a directory or fsspec URL.")
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VERSION]...", help="Names v=...", show_default=False),
    ] = None,
) -> None:
    """Delete published versions; without a VERSION, list them and who needs them.

    Refuses the current version, and one that a model or a checkpoint below the data root was
    trained on.

    \b
    python -m pipelines.publish.remove --data-root demo/data
    python -m pipelines.publish.remove --data-root demo/data v=0123456789abcdef0123456789abcdef
    """
    layout = Layout(data_root.rstrip("/"))
    for name in names or ():
        remove(layout, name)
        typer.echo(f"{name} removed")
    if not names:
        for line in _listing(layout):
            typer.echo(line)


def _listing(layout: Layout) -> list[str]:
    current, lines = versions.current(layout), []
    for url in versions.versions(layout):
        name = url.rsplit("/", 1)[1]
        needed = ["current"] if name == f"v={current}" else []
        needed += [use.path for use in uses(layout) if name == f"v={use.version}"]
        lines.append(f"{name}  {', '.join(needed) or 'not used'}")
    rests = (url.rsplit("/", 1)[1] for url in versions.unfinished(layout))
    lines += [f"{name}  not complete: being published, or left by a kill" for name in rests]
    return lines or [f"nothing is published below {layout.root}"]


if __name__ == "__main__":
    commands.run(main)
