"""Write the generated parts of the documentation again: `make docs`.

A part lies between `<!-- generated: NAME -->` and `<!-- end -->`. What the program says of itself (help, settings,
recipes, arrows) is never typed twice; tests/test_docs.py fails when a page has fallen behind.
"""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any
from unittest import mock

from textlora import bases, budget, cli
from textlora import config as configs
from textlora.config import Config
from textlora.fitting import MOST_REMEMBERED, for_rows

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 100
NUM_LABELS = 4  # of the counts in the recipes' table: both seeds' task has four
PART = re.compile(r"(?P<start><!-- generated: (?P<name>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


class HelpFormatter(argparse.HelpFormatter):
    """argparse's, with a flag's spellings before its one metavar, as Python 3.13 writes them and 3.11 doesn't yet."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        metavar = self._format_args(action, action.dest.upper())  # the second is for a flag without a metavar
        return f"{', '.join(action.option_strings)} {metavar}"


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Each verb's parser by its name, in the order of `textlora --help`."""
    actions = (action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(next(actions).choices)


def commands() -> str:
    """Every verb's --help, as 100 columns show it."""
    with mock.patch.dict(os.environ, {"COLUMNS": str(COLUMNS), "NO_COLOR": "1"}):
        return "\n".join(f"### {name}\n\n```text\n{_help(verb)}```\n" for name, verb in verbs().items())


def _help(verb: argparse.ArgumentParser) -> str:
    verb.formatter_class = HelpFormatter
    return verb.format_help()


def settings() -> str:
    """Name, default and help of each setting."""
    usual = Config()
    rows = [
        (f"`{name}`", _default(getattr(usual, name)), field.metadata["help"])
        for name, field in configs.setting_fields().items()
    ]
    return table(("setting", "default", "what it does"), rows)


def _default(value: Any) -> str:
    """As a reader would type it; nothing for an empty one."""
    if value in ("", (), {}):
        return ""
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{shown}`"


def recipes() -> str:
    """What each shipped recipe is, and what `textlora plan` counts for four labels."""
    return table(("recipe", "what it is", "base", "trained", "of all"), map(_recipe, configs.recipe_names()))


def _recipe(name: str) -> tuple[str, ...]:
    config = configs.load(name)
    base = bases.find(config.base)
    plan = budget.plan(
        for_rows(config, MOST_REMEMBERED), bases.shapes(base, config.base_weights), NUM_LABELS, base.hub_id
    )
    header = (resources.files("textlora.recipes") / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    what = header.removeprefix("#").strip().rstrip(".")
    return f"`{name}`", what, base.hub_id.rpartition("/")[2], f"{plan.trainable:,}", f"{plan.trainable_percent} %"


def arrows() -> str:
    """The layers of import-linter's contract, the upper ones importing the lower."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return "```text\n" + "\n".join(layers) + "\n```\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "recipes": recipes,
    "arrows": arrows,
}
PAGES = (ROOT / "README.md", ROOT / "docs" / "commands.md", ROOT / "docs" / "map.md")


def renewed(text: str) -> str:
    """A page with its generated parts made again."""
    return PART.sub(lambda part: f"{part['start']}{PARTS[part['name']]()}{part['end']}", text)


def main() -> None:
    for page in PAGES:
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
