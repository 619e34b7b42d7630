"""What the documentation says is so: its commands parse, its links lead somewhere, its counts are the plan's."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex

import pytest
import yaml  # huggingface_hub brings it
from conftest import ROOT

import textlora
from textlora import bases, budget, cli, flags
from textlora import config as configs
from textlora.fitting import MOST_REMEMBERED, for_rows

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")  # may be wrapped
LINK = re.compile(r"\]\(([^)\s]+)\)")
SOURCE = ROOT / "src" / "textlora"


def text_of(page):
    return page.read_text(encoding="utf-8")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(language):
    return [(page, body) for page in PAGES for _, lang, body in FENCED.findall(text_of(page)) if lang == language]


def command_lines():
    """`textlora ...` lines of shell blocks, and of inline code where more than a verb is named."""
    shell = [(page, line) for language in ("", "sh") for page, body in blocks(language) for line in body.splitlines()]
    inline = [(page, code) for page in PAGES for code in INLINE.findall(FENCED.sub("", text_of(page)))]
    parts = [(page, part.strip()) for page, line in (*shell, *inline) for part in line.split("&&")]
    commands = {(name_of(page), " ".join(part.split())) for page, part in parts if part.startswith("textlora ")}
    return sorted(c for c in commands if c[1].split()[1:] not in ([verb] for verb in generator().verbs()))


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", generator().PAGES, ids=name_of)
def test_generated_parts_are_what_the_program_says(page):
    assert generator().renewed(text_of(page)) == text_of(page), "run `make docs`"


def test_every_generated_part_is_on_a_page():
    found = {part["name"] for page in PAGES for part in generator().PART.finditer(text_of(page))}
    assert found == set(generator().PARTS)


@pytest.mark.parametrize(("page", "command"), command_lines())
def test_commands_in_the_documentation_parse(page, command):
    words = shlex.split(command, comments=True)[1:]
    if {"--help", "--version"} & set(words):
        with pytest.raises(SystemExit, match="0"), contextlib.redirect_stdout(io.StringIO()):
            cli.parser().parse_args(words)
        return
    args = cli.parser().parse_args(words)
    if "recipe" in args and not (args.recipe or "").endswith(".toml"):
        flags.settings(args)  # the flags' values, too


def test_the_documentation_has_commands_to_check():
    assert len(command_lines()) >= 10


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page):
    for link in LINK.findall(FENCED.sub("", text_of(page))):
        if not link.startswith(("https://", "mailto:", "#")):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_the_map_names_every_room_and_no_other():
    rooms = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")}
    named = set(re.findall(r"^\| `([\w/]+\.py)` \|", text_of(ROOT / "docs" / "map.md"), re.MULTILINE))
    assert named == rooms


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_figure_is_left_to_fill_in(page):
    assert not re.findall(r"FIGURE_\w+", text_of(page))


@pytest.mark.parametrize("recipe", configs.recipe_names())
def test_counts_in_the_readme_are_the_plans(recipe):
    config = configs.load(recipe)
    base = bases.find(config.base)
    plan = budget.plan(for_rows(config, MOST_REMEMBERED), bases.shapes(base), num_labels=4, base_name=base.hub_id)
    rows = [line for line in text_of(ROOT / "README.md").splitlines() if line.startswith(f"| `{recipe}`")]
    assert len(rows) == 2  # figures and recipes
    assert all(f" {plan.trainable:,} " in row for row in rows)


def test_python_in_the_documentation_compiles_and_uses_public_names():
    for page, body in blocks("python"):
        compile(body, name_of(page), "exec")
        assert set(re.findall(r"\btextlora\.(\w+)", body)) <= set(textlora.__all__), name_of(page)


def test_toml_in_the_documentation_is_a_valid_recipe(tmp_path):
    for _, body in blocks("toml"):
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(body, encoding="utf-8")
        configs.load(str(recipe))


def test_the_citation_is_valid_and_of_this_version():
    citation = yaml.safe_load(text_of(ROOT / "CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "type", "authors", "license", "abstract", "references"} <= citation.keys()
    assert citation["version"] == textlora.__version__
    for work in (citation, *citation["references"]):
        assert work["title"]
        assert all("name" in author or {"family-names", "given-names"} <= author.keys() for author in work["authors"])
    assert all(reference["type"] for reference in citation["references"])


def test_the_citation_credits_both_seeds_and_the_papers():
    references = str(yaml.safe_load(text_of(ROOT / "CITATION.cff"))["references"])
    sources = ("SARANG1018/LORA_Lords", "krishmurjani/lora-agnews-classification")
    papers = ("2106.09685", "1509.01626", "2002.10957", "1907.11692")
    assert all(name in references for name in (*sources, *papers))
