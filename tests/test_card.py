"""The model card: huggingface_hub reads the figures that the report has; what its owner wrote stays."""

from __future__ import annotations

import shutil

import pytest
from huggingface_hub import ModelCard

from textlora import card, cli, runs
from textlora.runs import Run


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained("bert"), tmp_path / "run")
    return Run(tmp_path / "run")


def read(run):
    return ModelCard((run.adapter / "README.md").read_text(encoding="utf-8"))


def figures(run):
    """(split, metric) -> value, as the hub would read them."""
    return {(r.dataset_split, r.metric_type): r.metric_value for r in read(run).data.eval_results}


def test_the_hub_reads_what_the_report_says(run, tiny_base):
    report = runs.read_json(run.evaluation / "report.json")["splits"]["validation"]
    assert figures(run) == {("validation", "accuracy"): report["accuracy"], ("validation", "f1"): report["f1_macro"]}
    found = read(run).data.to_dict()
    assert found["base_model"] == "google-bert/bert-base-uncased"
    assert (found["base_model_relation"], found["library_name"]) == ("adapter", "peft")
    assert (found["pipeline_tag"], found["language"]) == ("text-classification", "en")

    arguments = ["evaluate", str(run.folder), "--data", "mini-news", "--base-weights", str(tiny_base("bert"))]
    assert cli.main(arguments) == 0
    splits = runs.read_json(run.evaluation / "report.json")["splits"]
    assert figures(run) == {
        (name, kind): splits[name][key]
        for name in ("validation", "test")
        for kind, key in (("accuracy", "accuracy"), ("f1", "f1_macro"))
    }
    result = read(run).data.eval_results[-1]
    assert (result.dataset_name, result.dataset_type, result.task_type) == (
        "mini-news",
        "unknown",
        "text-classification",
    )
    assert f"| test | 200 | {splits['test']['accuracy']:.4f} |" in read(run).text
    assert "The test rows were read once." in read(run).text
    runs.verify(run.folder)


def test_what_an_owner_wrote_stays(run):
    path = run.adapter / "README.md"
    text = path.read_text(encoding="utf-8").replace("---\n", "---\nlicense: mit\n", 1).replace("# A LoRA", "# My LoRA")
    splits = runs.read_json(run.evaluation / "report.json")["splits"]
    changed = card.with_figures(text + "\nMy own words.\n", splits | {"test": splits["validation"]})
    found = ModelCard(changed)
    assert found.data.license == "mit"
    assert "# My LoRA" in changed
    assert changed.endswith("\nMy own words.\n")
    assert len(found.data.eval_results) == 4
    assert card.with_figures(changed, splits | {"test": splits["validation"]}) == changed


@pytest.mark.parametrize("text", ["", "my words", "---\nlicense: [\n---\nbroken", "---\n- a list\n---\n"])
def test_a_card_that_is_no_longer_ours_is_left_alone(run, text):
    splits = runs.read_json(run.evaluation / "report.json")["splits"]
    assert card.with_figures(text, splits) == text


def test_no_folder_of_this_machine_is_named(run, tmp_path):
    splits = runs.read_json(run.evaluation / "report.json")["splits"]
    (tmp_path / "mine").mkdir()
    moved = {name: report | {"data": str(tmp_path / "mine")} for name, report in splits.items()}
    changed = card.with_figures((run.adapter / "README.md").read_text(encoding="utf-8"), moved)
    assert str(tmp_path) not in changed
    assert {r.dataset_name for r in ModelCard(changed).data.eval_results} == {"mine"}


def test_data_of_the_hub_is_named_by_its_id(run):
    splits = runs.read_json(run.evaluation / "report.json")["splits"]
    report = splits["validation"] | {"data": "ag_news"}
    changed = card.with_figures((run.adapter / "README.md").read_text(encoding="utf-8"), {"validation": report})
    assert ModelCard(changed).data.eval_results[0].dataset_type == "fancyzhx/ag_news"
