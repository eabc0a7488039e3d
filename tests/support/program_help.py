"""Prints what `--help` of programs prints, many in one process: imports are paid for once.

Standard input is a JSON list of commands, each a list of words (`["training.promote", "show"]`,
`["dagster", "job", "launch"]`); standard output is a JSON list of texts.
"""

import contextlib
import io
import json
import runpy
import sys
from collections.abc import Sequence


def help_of(words: Sequence[str]) -> str:
    """What the command prints, whatever it ends with."""
    module = "dagster" if words[0] == "dagster" else words[0]
    sys.argv = [module, *words[1:], "--help"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            print(end.code if isinstance(end.code, str) else "")
    return printed.getvalue()


if __name__ == "__main__":
    answers = [help_of(words) for words in json.load(sys.stdin)]
    json.dump(answers, sys.stdout)
