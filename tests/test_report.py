"""The HTML report: whole within itself, true to the run's files, no markup from data, readable by everybody."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from textlora import cli, corpus, report, runs
from textlora.errors import DamagedError, UsageError
from textlora.runs import Run
from textlora.verdict import weaknesses

CORPUS_TEST = Path(corpus.__file__).parent / "test.csv"
BAD = '<script>alert("x")</script><img src=x onerror=alert(1)>'
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether each is closed where it should be."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.words, self.skip = [], [], [], 0
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(trained, tiny_base, tmp_path_factory):
    """A copy of a tiny run, judged on test."""
    folder = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(trained("bert"), folder)
    base = ["--base-weights", str(tiny_base("bert"))]
    assert cli.main(["report", str(folder), "--data", "mini-news", "--json", *base]) == 0
    return Run(folder)


@pytest.fixture(scope="module")
def html(run):
    return (run.evaluation / "report.html").read_text(encoding="utf-8")


def judged(run):
    return runs.read_json(run.evaluation / "report.json")["splits"]


def test_the_page_asks_for_nothing_and_is_small(html):
    assert len(html.encode()) < 3_000_000
    page = Page(html)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in page.tags:
        for key in ("src", "href", "srcset", "action", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#"), attributes
        assert not any(key.startswith("on") for key in attributes)
    css = "".join(re.findall(r"<style>(.*?)</style>", html, re.S)) + "".join(re.findall(r'style="([^"]*)"', html))
    assert "url(" not in css
    assert "@import" not in css


def test_the_page_says_what_the_files_say(run, html):
    text, found = Page(html).text, judged(run)
    test = found["test"]
    assert f"{100 * test['accuracy']:.1f}".removesuffix(".0") in text
    assert f"{test['f1_macro']:.3f}" in text
    assert "read once" in text
    for row in test["per_class"]:
        assert row["label"] in text
        assert f"{row['f1']:.3f}" in text
    plan = runs.read_json(run.folder / "plan.json")
    assert f"{plan['trainable']:,} of {plan['total']:,}" in text
    environment = runs.read_json(run.folder / "environment.json")
    assert all(value in text for value in environment["data"]["fingerprints"].values())
    assert environment["versions"]["torch"] in text
    assert f"After training: {run.summary()['verdict'][0]}" in text
    assert all(line in text for line in weaknesses(test))
    counts = [cell for row in test["confusion_matrix"] for cell in row]
    cells = re.findall(
        r'<td class="(?:right|wrong)[^>]*>(\d+)<span', html.split('class="matrix')[1].split("</table>")[0]
    )
    assert [int(cell) for cell in cells] == counts


def test_a_reader_without_eyes_or_mouse_finds_all(html):
    page = Page(html)
    assert page.named("html") == [{"lang": "en"}]
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in page.named("svg"))
    assert all(th.get("scope") for th in page.named("th"))
    headings = [int(name[1]) for name, _ in page.tags if re.fullmatch("h[1-6]", name)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"].removeprefix("#") for a in page.named("a")} <= set(ids)


def test_mistakes_show_the_words_that_moved_them(run, html):
    shown = html.split('<ol class="mistakes">')[1].split("</ol>")[0]
    assert shown.count("<li>") == min(report.MISTAKES, len(judged(run)["test"]["confident_mistakes"]))
    assert 'class="for"' in shown
    first = judged(run)["test"]["confident_mistakes"][0]["text"]
    inner = re.findall(r'<p class="text" dir="auto">(.*?)</p>', shown, re.S)[0]
    text = Page(f"<p>{inner}</p>")
    assert "".join(text.words).replace("…", "") == first[: report.LONGEST]


def test_no_folder_of_this_machine_is_named(run, html, tiny_base):
    assert str(tiny_base("bert")) not in html
    assert str(run.folder) not in html
    assert str(run.folder.parent) not in html


def test_the_run_stays_sealed(run):
    runs.verify(run.folder)
    assert "evaluation/report.html" in runs.listed(run.folder)


def test_texts_and_labels_cant_become_markup(run, tmp_path):
    """In every place where something from the data is shown."""
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    found = runs.read_json(folder / "evaluation/report.json")
    for split in found["splits"].values():
        for row, label in zip(split["per_class"], ("w", BAD, "b", "s"), strict=True):
            row["label"] = label
            row["top_confusions"] = [{"label": BAD, "count": 2}]
        for mistake in split["confident_mistakes"]:
            mistake |= {"text": BAD + " and more", "label": BAD, "predicted": BAD}
        split["warnings"] = [BAD]
    runs.write_json(folder / "evaluation/report.json", found)
    summary = runs.read_json(folder / "summary.json") | {"verdict": [BAD]}
    environment = runs.read_json(folder / "environment.json")
    environment["data"]["notes"] = [BAD]
    runs.write_json(folder / "summary.json", summary)
    runs.write_json(folder / "environment.json", environment)
    Run(folder).seal()
    html = report.write_report(folder).read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in {name for name, _ in page.tags}
    assert "img" not in {name for name, _ in page.tags}
    assert page.text.count('alert("x")') >= 8


def test_without_its_base_the_page_says_so(run, tmp_path):
    said = []
    html = report.write_report(run.folder, tmp_path / "page.html", base_weights=str(tmp_path), say=said.append)
    assert "left out" in said[0]
    assert "left out" in Page(html.read_text(encoding="utf-8")).text


def test_texts_can_be_left_out(run, tmp_path):
    html = report.write_report(run.folder, tmp_path / "page.html", texts=False).read_text(encoding="utf-8")
    assert "Texts are left out" in html
    assert not any(m["text"][:30] in html for m in judged(run)["test"]["confident_mistakes"])


def test_a_run_not_judged_on_test_shows_validation(trained, tiny_base, tmp_path):
    path = report.write_report(trained("bert"), tmp_path / "page.html", base_weights=str(tiny_base("bert")))
    text = Page(path.read_text(encoding="utf-8")).text
    assert "validation rows are right" in text
    assert "Not judged on test rows yet" in text


def test_rows_of_a_file_are_what_the_page_is_about(run, tiny_base, tmp_path, capsys):
    """Not the run's own test rows; and the page's commands, given to a shell, do as was done."""
    folder, rows = tmp_path / "run", tmp_path / "my rows; rm x.csv"
    shutil.copytree(run.folder, folder)
    lines = CORPUS_TEST.read_text(encoding="utf-8").splitlines()
    rows.write_text(
        "\n".join([lines[0].replace("text,label", "a text,a label"), *lines[1:41]]) + "\n", encoding="utf-8"
    )
    columns = ["--text-column", "a text", "--label-column", "a label"]
    command = ["report", str(folder), "--data", str(rows), *columns, "--json"]
    assert cli.main([*command, "--base-weights", str(tiny_base("bert"))]) == 0
    html = Path(json.loads(capsys.readouterr().out)["report"]).read_text(encoding="utf-8")
    text, own = Page(html).text, judged(run)
    found = next(one for name, one in judged(Run(folder)).items() if name not in own)
    assert found["n"] == 40
    assert f"of 40 rows of {rows.name} are right" in text
    assert f"this run, rows of {rows.name}" in text
    assert all(line in text for line in weaknesses(found))
    assert str(tmp_path) not in html
    for look in re.findall(r'class="(whisker c\d)"', html):  # an interval without its colour isn't seen
        assert f".{look.replace(' ', '.')} {{" in html
    shown = re.findall(r"<pre><code>(pip install.*?)</code></pre>", html, re.S)[0]
    again = shlex.split(unescape(shown).splitlines()[-1])
    assert again[:9] == ["textlora", "report", "runs/again", "--data", rows.name, *columns]


def test_a_flag_that_would_be_passed_over_is_refused(run, capsys):
    for flags in (["--split", "test"], ["--text-column", "text"], ["--label-column", "label"], ["--private"]):
        assert cli.main(["report", str(run.folder), *flags, "--json"]) == 2
        assert f"{flags[0]} is of" in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize("what", ["a bare adapter", "an output that exists", "a run in training"])
def test_what_is_refused_is_refused_before_scoring(what, run, tmp_path, capsys):
    folder, arguments = tmp_path / "run", []
    shutil.copytree(run.folder, folder)
    if what == "a bare adapter":
        folder = folder / "adapter"
    elif what == "an output that exists":
        arguments = ["--out", str(tmp_path)]
    else:
        (folder / "summary.json").unlink()
    before = runs.hashes(folder)
    assert cli.main(["report", str(folder), "--data", "mini-news", "--json", *arguments]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["fix"]
    assert runs.hashes(folder) == before


def test_a_split_that_isn_t_judged_is_refused(run):
    with pytest.raises(UsageError, match="judged are"):
        report.write_report(run.folder, split="nightly")


def test_many_labels_are_listed(run):
    rows = [{"label": f"label {i}", "f1": i / 99, "total": 50} for i in range(99)]
    matrix = [[(7 if j == (i + 1) % 99 else 0) + 40 * (i == j) for j in range(99)] for i in range(99)]
    found = {"per_class": rows, "confusion_matrix": matrix}
    assert report._classes(found)["rows"][0]["label"] == "label 0"
    assert report._classes(found)["left"] == 99 - report.CLASSES
    assert len(report._matrix(found)["pairs"]) == report.PAIRS


def test_no_depth_is_hard_to_read():
    depths = [report._depth(i / 1000) for i in range(1001)]
    assert not any(55 < one["depth"] < 78 for one in depths)
    assert all(one["turned"] == (one["depth"] >= 78) for one in depths)


def test_calibration_pictures_appear_with_their_figures():
    bins = [{"n": 9, "confidence": c, "accuracy": c - 0.02} for c in (0.5, 0.8, 0.99)]
    kept = [{"coverage": 1.0, "n": 99, "accuracy": 0.9, "threshold": 0.3}]
    kept += [{"coverage": 0.5, "n": 50, "accuracy": 1.0, "threshold": 0.9}]
    made = report._calibration({"ece": 0.02, "reliability": bins, "risk_coverage": kept})
    assert "3 groups" in made["reliability"]
    assert "differ by 2 % at most" in made["reliability"]
    assert "90 % of all rows, 100 % of the surest" in made["coverage"]
    assert report._calibration({"ece": 0.02})["reliability"] == ""


# ---------------------------------------------------------------------------------------------------------- bad input


def test_an_existing_output_stays(run, tmp_path, capsys):
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        report.write_report(run.folder, tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "mine"
    report.write_report(run.folder, tmp_path / "mine.html", texts=False, overwrite=True)
    assert cli.main(["report", str(tmp_path), "--json"]) == 2
    assert "is no run" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_figures_changed_by_hand_are_refused(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    path = folder / "evaluation/report.json"
    path.write_text(path.read_text().replace('"accuracy": 0.', '"accuracy": 0.9', 1))
    with pytest.raises(DamagedError, match="sha256"):
        report.write_report(folder)


def test_a_run_in_training_has_no_page(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained("bert"), folder)
    (folder / "summary.json").unlink()
    with pytest.raises(UsageError, match="hasn't finished"):
        report.write_report(folder)


# ------------------------------------------------------------------------------------------------------- in a browser

AXE_PROBE = """<script>axe.run(document).then(found => {
  const shown = found.violations.map(one => [one.id, one.impact, one.nodes.map(node => node.target.join(" "))]);
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.documentElement.dataset.found = JSON.stringify({violations: shown, passes: found.passes.length, wide});
})</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [500, 1280])
def test_axe_finds_nothing_in_chromium(html, tmp_path, scheme, width):
    """axe-core (`npm pack axe-core`; name its axe.min.js in AXE_CORE) over the page in a headless Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    axe = Path(os.environ.get("AXE_CORE") or "axe.min.js")
    if not chromium or not axe.is_file():
        pytest.skip("NOT CHECKED for accessibility: needs Chromium on the path and axe-core's file named in AXE_CORE")
    probe = f"<script>{axe.read_text(encoding='utf-8')}</script>{AXE_PROBE}</body>"
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", probe), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += [f"--window-size={width},900", "--virtual-time-budget=30000", "--dump-dom"]
    options.append(f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}")
    done = subprocess.run([chromium, *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    shown = re.search(r'<html[^>]*data-found="([^"]*)"', done.stdout)
    assert shown, done.stderr[-500:]
    found = json.loads(unescape(shown[1]))
    assert found["violations"] == []
    assert found["passes"] > 20
    assert found["wide"] == 0
