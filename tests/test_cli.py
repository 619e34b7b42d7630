"""The command line: its contract of words, exit codes and JSON, and one sentence for every mistake.

Most tests call `main(argv)` in this process and catch what it writes at the file descriptors, C libraries' included;
a few start `python -m textlora` as a user does.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED, corpus_rows, make_base

from textlora import cli, plans, runs
from textlora import config as configs

PEER = SHARED / "data" / "peer_adapter"
LABELS = {"World", "Sports", "Business", "Sci/Tech"}
PLAN_KEYS = {"base", "num_labels", "total", "trainable", "trainable_percent", "adapters", "head", "budget", "fits"}
PLAN_KEYS |= {"largest_r", "r", "lora_alpha", "target_modules", "modules"}
MODULE_KEYS = {"name", "in", "out", "r", "lora_alpha", "parameters"}
EVALUATE_KEYS = {
    "n",
    "accuracy",
    "accuracy_ci",
    "precision",
    "recall",
    "f1",
    "precision_macro",
    "recall_macro",
    "f1_macro",
}
EVALUATE_KEYS |= {"per_class", "confusion_matrix", "ece", "trainable_parameters", "test_reads"}
CLASS_KEYS = {"label", "accuracy", "correct", "total", "precision", "recall", "f1", "top_confusions"}
SUMMARY_KEYS = {"train_samples_per_second", "train_tokens_per_second", "train_seconds", "peak_rss_bytes", "engine"}
SUMMARY_KEYS |= {"best_validation_accuracy", "trainable_parameters", "baselines"}
NO_HUB = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        return json.loads(self.out)


@pytest.fixture
def ask(capfd) -> Callable[..., Answer]:
    """Run a command in this process."""

    def run(*argv: object) -> Answer:
        capfd.readouterr()
        code = cli.main([str(word) for word in argv])
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return run


def spawn(*argv: object, **options: Any) -> Answer:
    """Run a command as a user does."""
    command = [sys.executable, "-m", "textlora", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=NO_HUB, **options)
    return Answer(done.returncode, done.stdout, done.stderr)


def spawn_python(code: str, *argv: object) -> Answer:
    command = [sys.executable, "-c", code, *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=NO_HUB)
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory) -> Path:
    """A copy of this page's own: that test rows were read is written into it."""
    return Path(shutil.copytree(trained(), tmp_path_factory.mktemp("cli") / "run"))


@pytest.fixture(scope="module")
def loading(tiny_base) -> list[str]:
    """The flags that find the tiny run's base."""
    return ["--base-weights", str(tiny_base("bert")), "--precise"]


@pytest.fixture
def train_words(tiny_base, tmp_path) -> list[str]:
    """A training of a second, into `tmp_path`/out."""
    words = f"train --base bert --base-weights {tiny_base('bert')} --precision fp32 --max-steps 2 --max-length 32"
    return [*words.split(), "--batch-tokens", "512", "--lora-r", "2", "--out", str(tmp_path / "out")]


# ------------------------------------------------------------------------------------------------------- help and speed


def test_help_answers_in_under_half_a_second():
    """In processor time of the child: what the clock adds on a busy machine isn't ours."""
    seconds = []
    for _ in range(3):
        began = os.times()
        assert spawn("--help").code == 0
        ended = os.times()
        seconds.append(sum(getattr(ended, key) - getattr(began, key) for key in ("children_user", "children_system")))
    print(f"--help: {min(seconds):.3f} s")
    assert min(seconds) < 0.5


def test_help_lists_every_verb_and_version_is_the_packages(capfd):
    import textlora

    for argv in (["--help"], ["--version"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(argv)
        assert stop.value.code == 0
    out = capfd.readouterr().out
    assert all(verb in out for verb in ("quickstart", "plan", "train", "evaluate", "classify", "predict", "inspect"))
    assert out.endswith(f"textlora {textlora.__version__}\n")


@pytest.mark.parametrize("verb", ["plan", "train"])
def test_a_verbs_help_names_every_setting_with_its_help(capfd, verb):
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    out = " ".join(capfd.readouterr().out.split())
    for name, field in configs.setting_fields().items():
        assert f"--{name.replace('_', '-')}" in out
        assert " ".join(field.metadata["help"].split()) in out, name


IMPORTED = """
import sys
from textlora.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print({"torch", "transformers", "numpy", "peft", "scipy", "sklearn"} & set(sys.modules), code, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["train", "--help"],
        ["plan", "--recipe", "roberta-qv-r10", "--json"],
        ["plan", "--recipe", "roberta-selective-r36"],
        ["plan", "--lora-r", "max", "--num-labels", "20"],
        ["plan", "--lora-r", "100000"],
    ],
    ids=" ".join,
)
def test_help_and_plan_import_neither_torch_nor_transformers_nor_numpy(argv):
    done = spawn_python(IMPORTED, *argv)
    code = 4 if "100000" in argv else 0
    assert done.err.splitlines()[-1] == f"set() {code}"


# ----------------------------------------------------------------------------------------------------------------- plan


@pytest.mark.parametrize(
    ("recipe", "trainable", "adapters", "percent", "r", "alpha", "count"),
    [
        ("roberta-qv-r10", 962_308, 368_640, 0.77, 10, 64, 24),
        ("roberta-selective-r36", 814_852, 221_184, 0.65, 36, 32, 4),
    ],
)
def test_both_seeds_are_counted_exactly(ask, recipe, trainable, adapters, percent, r, alpha, count):
    plan = ask("plan", "--recipe", recipe, "--json").json
    assert plan.keys() >= PLAN_KEYS
    assert (plan["trainable"], plan["adapters"], plan["head"]) == (trainable, adapters, 593_668)
    assert adapters + 593_668 == trainable
    assert (plan["trainable_percent"], plan["r"], plan["lora_alpha"], plan["num_labels"]) == (percent, r, alpha, 4)
    assert plan["base"] == "FacebookAI/roberta-base"
    assert len(plan["modules"]) == count
    assert all(module.keys() == MODULE_KEYS for module in plan["modules"])
    assert sum(module["parameters"] for module in plan["modules"]) == adapters
    assert plan["fits"]
    assert plan["trainable"] <= plan["budget"] == 999_999


def test_labels_are_counted_where_they_are_named_or_in_the_data(ask, tmp_path):
    (tmp_path / "six.csv").write_text("text,label\n" + "".join(f"text {i} of {i},l{i % 6}\n" for i in range(60)))
    assert ask("plan", "--lora-r", 4, "--data", tmp_path / "six.csv", "--json").json["num_labels"] == 6
    assert ask("plan", "--lora-r", 4, "--label-names", "a,b,c", "--json").json["num_labels"] == 3
    assert (
        ask("plan", "--lora-r", 4, "--data", tmp_path / "six.csv", "--num-labels", 9, "--json").json["num_labels"] == 9
    )


def test_over_budget_exits_4_with_the_largest_rank_that_fits(ask):
    answer = ask("plan", "--recipe", "roberta-qv-r10", "--budget", 900_000, "--json")
    assert answer.code == 4
    assert answer.json["error"]["code"] == 4
    assert answer.json["error"]["kind"] == "budget"
    assert "962,308" in answer.json["error"]["message"]
    assert "the largest rank that fits is 8" in answer.json["error"]["fix"]
    fits = ask("plan", "--recipe", "roberta-qv-r10", "--budget", 900_000, "--lora-r", 8, "--json")
    assert (fits.code, fits.json["fits"]) == (0, True)
    assert ask("plan", "--recipe", "roberta-qv-r10", "--budget", 900_000, "--lora-r", 9, "--json").code == 4


def test_max_is_the_rank_that_the_refusal_named(ask):
    words = ["plan", "--recipe", "roberta-qv-r10", "--budget", 900_000, "--lora-r"]
    assert ask(*words, "max", "--json").json["r"] == 8


def test_the_plans_table_holds_the_same_numbers(ask):
    out = ask("plan", "--recipe", "roberta-selective-r36").out
    for words in ("FacebookAI/roberta-base", "221,184", "593,668", "814,852", "0.65 %", "r 36, alpha 32 on 4 matrices"):
        assert words in out


@pytest.mark.parametrize("name", [name for name in configs.setting_fields() if "_" in name])
def test_a_flag_may_be_written_with_dashes_or_underscores(name):
    settings = {
        parsed.__dict__[name] if not isinstance(parsed.__dict__[name], list) else tuple(parsed.__dict__[name])
        for spelling in (f"--{name}", f"--{name.replace('_', '-')}")
        for parsed in [cli.parser().parse_args(["train", spelling, "7"])]
    }
    assert settings in ({"7"}, {("7",)})


def test_both_spellings_plan_alike(ask):
    dashed = ask("plan", "--lora-r", 4, "--target-modules", "query,value", "--num-labels", 3, "--json")
    scored = ask("plan", "--lora_r", 4, "--target_modules", "query,value", "--num_labels", 3, "--json")
    assert dashed.out == scored.out
    assert dashed.json["r"] == 4


def test_a_list_may_be_written_with_commas_or_by_repeating_the_flag(ask):
    commas = ask("plan", "--target-modules", "query, value", "--layers-to-transform", "0,2", "--json")
    repeated = ask(
        "plan",
        *["--target-modules", "query", "--target-modules", "value"],
        *["--layers-to-transform", "0", "--layers-to-transform", "2"],
        "--json",
    )
    assert commas.code == 0
    assert commas.out == repeated.out
    assert len(commas.json["modules"]) == 4


def test_a_switch_stands_alone_or_says_which_and_a_flag_may_take_back_a_recipes(ask, tmp_path):
    alone, said, scored = (
        ask("plan", *flag, "--json").json for flag in (["--use-dora"], ["--use-dora", "true"], ["--use_dora=True"])
    )
    assert alone == said == scored
    assert alone["use_dora"]
    plain = ask("plan", "--use-dora", "false", "--json").json
    assert plain == ask("plan", "--json").json
    assert alone["adapters"] > plain["adapters"]
    (tmp_path / "mine.toml").write_text("batch_tokens = 2048\nuse_dora = true\n")
    assert not ask("plan", "--recipe", tmp_path / "mine.toml", "--use-dora", "false", "--json").json["use_dora"]


def test_a_table_is_written_as_pairs(ask):
    plan = ask("plan", "--target-modules", "query,value", "--rank-pattern", "query=8,value=2", "--json").json
    assert {module["r"] for module in plan["modules"] if module["name"].endswith("query")} == {8}
    assert {module["r"] for module in plan["modules"] if module["name"].endswith("value")} == {2}


# -------------------------------------------------------------------------------------------------------------- inspect


@pytest.mark.skipif(
    not PEER.is_dir(), reason=f"{PEER} is not there: it comes with the workspace, not with the repository"
)
def test_a_peers_adapter_is_counted(ask):
    found = ask("inspect", PEER, "--json").json
    assert found.keys() >= PLAN_KEYS
    assert (found["trainable"], found["r"], found["lora_alpha"], found["num_labels"]) == (814_852, 36, 32, 4)
    assert len(found["modules"]) == 4
    assert all(module.keys() == MODULE_KEYS for module in found["modules"])


def by_name(modules: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {module["name"]: module for module in modules}


def test_a_run_holds_what_was_planned(ask, run):
    found = ask("inspect", run, "--json").json
    planned = runs.read_json(run / "plan.json")
    for key in ("base", "trainable", "adapters", "head", "r", "lora_alpha", "num_labels", "budget"):
        assert found[key] == planned[key], key
    assert by_name(found["modules"]) == by_name(planned["modules"])
    assert ask("inspect", run / "adapter", "--json").json == found
    assert f"{found['trainable']}" in ask("inspect", run).out


# ------------------------------------------------------------------------------------------------- use of a trained run


def test_classify_gives_each_text_a_label_and_probabilities(ask, run, loading):
    given = ["Rain stops play", 'Ünïcode & "quotes"\n', "--not a flag"]
    answer = ask("classify", run, *loading, "--json", "--", *given)
    results = answer.json["results"]
    assert [result["text"] for result in results] == given
    for result in results:
        assert result.keys() == {"text", "label", "label_id", "probability", "probabilities"}
        assert set(result["probabilities"]) == LABELS
        assert sum(result["probabilities"].values()) == pytest.approx(1)
        assert (
            result["probability"] == max(result["probabilities"].values()) == result["probabilities"][result["label"]]
        )
        assert list(result["probabilities"])[result["label_id"]] == result["label"]


def test_classify_prints_a_line_a_text(ask, run, loading):
    answer = ask("classify", run, "Rain stops play", "Shares fall", *loading)
    lines = answer.out.splitlines()
    assert [line.split("\t")[2] for line in lines] == ["Rain stops play", "Shares fall"]
    assert {line.split("\t")[0] for line in lines} <= LABELS
    assert answer.code == 0


def test_evaluate_gives_the_contracts_figures_and_counts_the_reading(ask, trained, loading, tmp_path):
    run = shutil.copytree(trained(), tmp_path / "run")
    argv = ["evaluate", run, "--data", "mini-news", "--split", "test", "--out", tmp_path / "report", *loading, "--json"]
    reads = []
    for _ in range(2):
        answer = ask(*argv)
        assert answer.code == 0
        reads.append(answer.json["test_reads"])
    report = answer.json
    assert reads == [1, 2]
    assert report.keys() >= EVALUATE_KEYS
    assert report["n"] == 200
    low, high = report["accuracy_ci"]
    assert low < report["accuracy"] < high
    assert {row["label"] for row in report["per_class"]} == LABELS
    assert all(row.keys() >= CLASS_KEYS for row in report["per_class"])
    assert sum(map(sum, report["confusion_matrix"])) == 200
    assert report["trainable_parameters"] == runs.read_json(run / "plan.json")["trainable"]


def test_evaluate_prints_a_table_and_how_often_the_test_was_read(ask, trained, loading, tmp_path):
    run = shutil.copytree(trained(), tmp_path / "run")
    answer = ask("evaluate", run, "--data", "mini-news", "--out", tmp_path / "report", *loading)
    assert answer.out.startswith("test: accuracy 0.")
    assert all(label in answer.out for label in LABELS)
    assert answer.out.splitlines()[-1] == "test read once"


def test_a_single_file_needs_no_split(ask, run, loading, tmp_path):
    rows = corpus_rows("test")[:40]
    source = tmp_path / "mine.csv"
    write_csv(source, rows)
    answer = ask("evaluate", run / "adapter", "--data", source, *loading, "--json")
    assert answer.json["n"] == 40
    assert answer.json["test_reads"] is None


def test_a_test_file_on_its_own_counts_as_a_test_read_however_it_is_written(ask, run, loading, tmp_path):
    source = tmp_path / "Test-00000-of-00001.csv"
    write_csv(source, corpus_rows("test")[:20])
    answer = ask("evaluate", run / "adapter", "--data", source, "--out", tmp_path / "report", *loading, "--json")
    assert answer.json["test_reads"] == 1


def test_a_bare_adapter_may_keep_its_report_elsewhere(ask, run, loading, tmp_path):
    before = sorted(run.rglob("*"))
    answer = ask("evaluate", run / "adapter", "--data", "mini-news", "--out", tmp_path / "report", *loading)
    assert answer.code == 0
    assert (tmp_path / "report" / "evaluation" / "report.json").is_file()
    assert sorted(run.rglob("*")) == before


def test_predict_kaggle_is_id_and_label_in_order(ask, run, loading, tmp_path):
    rows = corpus_rows("test")[:30]
    write_csv(tmp_path / "in.csv", rows, columns=("text",))
    output = tmp_path / "submission.csv"
    words = ["predict", run, "--input", tmp_path / "in.csv", "--output", output, "--format", "kaggle", *loading]
    answer = ask(*words, "--json")
    assert (answer.code, answer.json) == (0, {"rows": 30, "output": str(output)})
    with output.open(newline="") as file:
        header, *lines = list(csv.reader(file))
    assert header == ["ID", "Label"]
    assert [line[0] for line in lines] == [str(i) for i in range(30)]
    classified = ask("classify", run, *[row["text"] for row in rows], *loading, "--json").json["results"]
    assert [int(line[1]) for line in lines] == [result["label_id"] for result in classified]


def test_classify_and_predict_scale_the_adapters_alike(ask, run, loading, tmp_path):
    (tmp_path / "in.txt").write_text("Rain stops play\n")
    flags = [*loading, "--adapter-scale", "0.5"]
    ask("predict", run, *flags, "--input", tmp_path / "in.txt", "--output", tmp_path / "half.jsonl")
    (half,) = ask("classify", run, "Rain stops play", *flags, "--json").json["results"]
    (usual,) = ask("classify", run, "Rain stops play", *loading, "--json").json["results"]
    written = json.loads((tmp_path / "half.jsonl").read_text())
    assert written["probabilities"] == half["probabilities"] != usual["probabilities"]


def test_predict_is_named_as_the_seed_named_it_where_no_output_is_given(ask, run, loading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    assert ask("predict", run, "--input", "in.txt", *loading).out == "2 rows -> inference_output.csv\n"
    assert (tmp_path / "inference_output.csv").is_file()


# ---------------------------------------------------------------------------------------------------------------- train


def test_train_prints_the_run_on_stdout_and_everything_else_on_stderr(ask, train_words, tmp_path):
    answer = ask(*train_words, "--data", "mini-news")
    assert (answer.code, answer.out) == (0, f"{tmp_path / 'out'}\n")
    for words in ("data mini-news", "plan:", "to beat:", "step 2/2", "Next: textlora evaluate"):
        assert words in answer.err
    runs.verify(tmp_path / "out")


@pytest.mark.slow
def test_train_as_json_is_one_object_with_the_summary(train_words, tmp_path):
    """In a process of its own: nothing that a library prints may get between."""
    answer = spawn(*train_words, "--data", "mini-news", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["run"] == str(tmp_path / "out")
    assert answer.json["summary"].keys() >= SUMMARY_KEYS
    assert answer.json["summary"] == runs.read_json(tmp_path / "out" / "summary.json")
    assert "Warning" not in answer.err


def test_several_text_columns_are_joined_and_kept_for_prediction(ask, train_words, loading, tmp_path):
    rows = [
        {"subject": row["text"][:20], "a, body": row["text"][20:], "label": row["label"]}
        for row in corpus_rows("validation")
    ]
    write_csv(tmp_path / "mail.csv", rows, columns=("subject", "a, body", "label"))
    answer = ask(*train_words, "--data", tmp_path / "mail.csv", "--text-column", "subject", "--text-column", "a, body")
    assert answer.code == 0, answer.err
    assert runs.open_run(tmp_path / "out").config().text_column == ("subject", "a, body")
    again = ask("evaluate", tmp_path / "out", "--data", tmp_path / "mail.csv", *loading, "--json")
    assert again.json["n"] == len(rows)


def test_random_weights_are_warned_about(ask):
    """Before anything else: a base of full size is too slow for this test, so it ends at the missing tokenizer."""
    answer = ask("train", "--base", "bert", "--base-weights", "random:0", "--data", "mini-news", "--json")
    assert answer.code == 2
    assert answer.err.startswith("WARNING: random base weights")


@pytest.mark.slow
def test_resume_goes_on_with_the_runs_own_settings(ask, train_words, tmp_path):
    assert ask(*train_words, "--data", "mini-news").code == 0
    before = (tmp_path / "out" / "adapter" / "adapter_model.safetensors").read_bytes()
    (tmp_path / "out" / "summary.json").unlink()  # as if it had been stopped after its last checkpoint
    again = ask("train", "--resume", "--out", tmp_path / "out")
    assert again.code == 0, again.err
    assert "resuming at step 2" in again.err
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").read_bytes() == before
    other = ask("train", "--resume", "--out", tmp_path / "out", "--lora-r", 3)
    assert other.code == 2
    assert "--lora-r says otherwise" in other.err


# ----------------------------------------------------------------------------------------------------------- exit codes


def raising(error: BaseException) -> Callable[..., Any]:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    return broken


@pytest.mark.parametrize(
    ("error", "code", "kind", "phrase"),
    [
        (KeyboardInterrupt(), 130, "interrupted", "interrupted"),
        (KeyboardInterrupt("stopped at step 7; go on with: x"), 130, "interrupted", "stopped at step 7"),
        (MemoryError(), 7, "resource", "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 7, "resource", "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 7, "resource", "out of memory"),
        (OSError(28, "No space left on device"), 7, "resource", "the disk is full"),
        (PermissionError(13, "Permission denied", "/etc/shadow"), 7, "resource", "/etc/shadow: Permission denied"),
        (ConnectionError("no route to the hub"), 7, "resource", "no route to the hub"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_the_machine_refuses_is_told_in_a_sentence(ask, monkeypatch, error, code, kind, phrase, as_json):
    from textlora import budget

    for ways in (budget, plans):
        monkeypatch.setattr(ways, "plan", raising(error))
    answer = ask("plan", *(["--json"] if as_json else []))
    assert answer.code == code
    assert phrase in answer.err
    assert "Traceback" not in answer.err
    if as_json:
        assert (answer.json["error"]["code"], answer.json["error"]["kind"]) == (code, kind)
    else:
        assert answer.out == ""


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("ours"), RuntimeError("ours"), ValueError("ours"), KeyError("ours")]
)
def test_a_fault_of_our_own_exits_1_and_shows_where(ask, monkeypatch, error):
    from textlora import budget

    for ways in (budget, plans):
        monkeypatch.setattr(ways, "plan", raising(error))
    answer = ask("plan", "--json")
    assert answer.code == 1
    assert answer.json["error"]["kind"] == "internal"
    assert type(error).__name__ in answer.json["error"]["message"]
    assert "Traceback" in answer.err


def test_a_figure_that_json_cannot_hold_is_no_silent_nan(ask, monkeypatch):
    from textlora import inspect

    monkeypatch.setattr(inspect, "inspect_adapter", lambda _: {"modules": [], "share": float("nan")})
    answer = ask("inspect", "adapter", "--json")
    assert (answer.code, answer.json["error"]["kind"]) == (1, "internal")


def test_python_m_textlora_exits_with_the_commands_code(tmp_path):
    answer = spawn("inspect", tmp_path / "nowhere", "--json")
    assert answer.code == answer.json["error"]["code"] == 2
    assert "Traceback" not in answer.err


WAITING = """
import sys
sys.stdin.readline()
from textlora.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows a closed pipe shows itself otherwise")
@pytest.mark.parametrize("argv", [["plan"], ["plan", "--json"], ["plan", "--lora-r", "0", "--json"]], ids=" ".join)
def test_a_reader_that_leaves_early_gets_no_traceback(argv):
    command = [sys.executable, "-c", WAITING, *argv]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=NO_HUB) as process:
        process.stdout.close()
        process.stdin.write("go on\n")
        process.stdin.close()
        err = process.stderr.read()
    assert process.returncode == 7
    assert err == ""


# ------------------------------------------------------------------------------------------------------------ bad input


def write_csv(path: Path, rows: list[dict[str, str]], columns: tuple[str, ...] = ("text", "label")) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def with_cell(row: int, text: bytes) -> bytes:
    """A good file with the text of one row (from 1) replaced by these bytes."""
    lines = [b"text,label"] + [f"text number {i} of many,{i % 2}".encode() for i in range(40)]
    lines[row] = text + b",1"
    return b"\n".join(lines) + b"\n"


@pytest.fixture(scope="module")
def bad(tmp_path_factory, run, tiny_base) -> dict[str, Path]:
    """Everything that is wrong, by name; and a few things that aren't."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    home = tmp_path_factory.mktemp("bad")
    rows = corpus_rows("validation")
    write_csv(home / "good.csv", rows)
    write_csv(home / "one_class.csv", [row | {"label": "World"} for row in rows])
    write_csv(home / "unknown_label.csv", [*rows[:5], {"text": "a", "label": "Weather"}])
    for name, text in {
        "empty_text": b"",
        "blank_text": b'"  "',
        "nul": b"a\0b",
        "utf8": b"\xcf\xee\xe5\xe7\xe4",
        "quote": b'"a" b',
    }.items():
        (home / f"{name}.csv").write_bytes(with_cell(7, text))
    (home / "open_quote.csv").write_bytes(with_cell(7, b'"never closed'))
    (home / "empty.csv").write_bytes(b"")
    (home / "header_only.csv").write_text("text,label\n")
    (home / "notes.docx").write_bytes(b"PK")
    (home / "numbers.jsonl").write_text('{"text": "a", "label": 0}\n{"text": 3, "label": 1}\n')
    (home / "floats.csv").write_text("text,label\n" + "".join(f"text {i},{i / 7}\n" for i in range(1, 40)))

    pq.write_table(
        pa.table({"text": [row["text"] for row in rows], "label": [row["label"] for row in rows]}),
        home / "whole.parquet",
    )
    (home / "cut.parquet").write_bytes((home / "whole.parquet").read_bytes()[:-50])

    for name in ("new_in_test", "no_test", "no_train"):
        (home / name).mkdir()
    write_csv(home / "new_in_test" / "train.csv", rows)
    write_csv(home / "new_in_test" / "test.csv", [{"text": "Snow is expected", "label": "Weather"}])
    write_csv(home / "no_test" / "train.csv", rows)
    write_csv(home / "no_train" / "test.csv", rows)

    make_base("bert", home / "other_base", seed=1)
    shutil.copytree(run, home / "damaged_run")
    weights = home / "damaged_run" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    shutil.copytree(run / "adapter", home / "cut_adapter")
    weights = home / "cut_adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    shutil.copytree(run / "adapter", home / "no_tokenizer_adapter")
    (home / "no_tokenizer_adapter" / "tokenizer.json").write_text("{")
    (home / "pickled_base").mkdir()
    (home / "pickled_base" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    shutil.copy(tiny_base("bert") / "config.json", home / "pickled_base")

    (home / "wrong_key.toml").write_text("batch_tokens = 512\nlearning_rates = 1e-3\n")
    (home / "wrong_type.toml").write_text('batch_tokens = "many"\n')
    (home / "no.toml").write_text("seed = \n")
    (home / "existing.csv").write_text("precious\n")
    (home / "sample.csv").write_text("ID,Label\n0,0\n")
    (home / "empty_folder").mkdir()
    return {path.name.replace(".", "_"): path for path in home.iterdir()} | {
        "home": home,
        "run": run,
        "base": tiny_base("bert"),
    }


PLAN = "plan --base bert"
ON = "--base-weights {base} --precise"
TRAIN = "train --base bert --base-weights {base} --precision fp32 --max-steps 2 --max-length 32"
TRAIN += " --batch-tokens 512 --out {out}"
EVALUATE = f"evaluate {{run}} {ON} --out {{out}}"
PREDICT = f"predict {{run}} {ON} --format csv --output {{out}}"

BAD_INPUT = {
    # the command
    "unknown verb": ("trian", 2, "invalid choice: 'trian'"),
    "no verb": ("", 2, "VERB"),
    "unknown flag": ("plan --lora-rr 4", 2, "did you mean --lora-r"),
    "unknown flag of another spelling": ("plan --learning_rates=4", 2, "did you mean --learning-rate"),
    "a flag cut short": ("plan --lora 4", 2, "plan has no flag --lora"),
    "a stray word": ("plan roberta", 2, "doesn't take 'roberta'"),
    "a flag without its value": ("plan --lora-r", 2, "expected one argument"),
    "unknown base": ("plan --base robertta", 2, "did you mean roberta"),
    "unknown recipe": ("plan --recipe minilm-fsat", 2, "did you mean minilm-fast"),
    "no such recipe file": ("plan --recipe {home}/nowhere.toml", 2, "there is no recipe file"),
    "unknown key": ("plan --recipe {wrong_key_toml}", 2, "did you mean learning_rate"),
    "a key of the wrong type": ("plan --recipe {wrong_type_toml}", 2, "batch_tokens must be int"),
    "a recipe that is no TOML": ("plan --recipe {no_toml}", 6, "is not a TOML file"),
    "rank 0": (f"{PLAN} --lora-r 0", 2, "lora_r must be a whole number from 1"),
    "a negative rank": (f"{PLAN} --lora-r=-3", 2, "lora_r must be a whole number from 1"),
    "a rank in words": (f"{PLAN} --lora-r four", 2, "--lora-r takes a whole number or max, got 'four'"),
    "a rate that is no number": (f"{PLAN} --learning-rate fast", 2, "--learning-rate takes a number"),
    "a rate that is NaN": (f"{PLAN} --learning-rate nan", 2, "learning_rate must be finite"),
    "a layer that is no number": (f"{PLAN} --layers-to-transform first", 2, "takes whole numbers with commas"),
    "a layer that isn't there": (f"{PLAN} --layers-to-transform 99", 2, "the base has layers 0 to 11"),
    "a pattern without a value": (f"{PLAN} --rank-pattern query", 2, "takes pairs like query=8,value=4"),
    "a target that matches nothing": (f"{PLAN} --target-modules qurey", 2, "did you mean query"),
    "one label": (f"{PLAN} --num-labels 1", 2, "2 labels or more"),
    "labels of two numbers": (f"{PLAN} --num-labels 3 --label-names a,b", 2, "--label-names are 2"),
    "data that isn't there": (f"{PLAN} --data nowhere.csv", 3, "nowhere.csv"),
    "labels that are no number": (f"{PLAN} --num-labels four", 2, "invalid int value"),
    "an unknown choice": (f"{PLAN} --head liner", 2, "did you mean linear"),
    "four bits without a GPU": (f"{TRAIN} --data mini-news --quantize 4bit", 7, "4bit needs a CUDA GPU"),
    "four bits of random numbers": (f"{PLAN} --quantize 4bit --base-weights random:0", 2, "for real base weights"),
    "four bits and trained biases": (f"{PLAN} --quantize 4bit --bias all", 2, "goes with bias none"),
    "an unknown optimizer": (f"{PLAN} --optim muonn", 2, "did you mean muon"),
    "a switch that is neither": (f"{PLAN} --use-dora maybe", 2, "--use-dora takes true or false, got 'maybe'"),
    "a head of rank 0": (f"{PLAN} --head low-rank --head-rank 0", 2, "head_rank must be above 0"),
    "both batching modes": (f"{PLAN} --batch-tokens 512 --per-device-train-batch-size 8", 2, "set one of batch_tokens"),
    "a seed that NumPy can't take": (f"{PLAN} --seed 4294967296", 2, "seed must be below"),
    "over budget": (f"{PLAN} --lora-r 64", 4, "the largest rank that fits is 6:"),
    "over budget in training": (f"{TRAIN} --data mini-news --budget 1000", 4, "the budget is 1,000"),
    "a head over budget": ("plan --recipe roberta-qv-r10 --budget 500000", 4, "head for 4 labels alone needs 593,668"),
    # the data
    "no data": (TRAIN, 2, "there is no data to train on"),
    "unknown data": (f"{TRAIN} --data mini-nwes", 2, "did you mean mini-news"),
    "missing file": (f"{TRAIN} --data {{home}}/nowhere.csv", 3, "there is no file or folder"),
    "empty file": (f"{TRAIN} --data {{empty_csv}}", 3, "empty.csv is empty"),
    "a header alone": (f"{TRAIN} --data {{header_only_csv}}", 3, "no rows"),
    "empty folder": (f"{TRAIN} --data {{empty_folder}}", 3, "holds no data"),
    "a folder without train": (f"{TRAIN} --data {{no_train}}", 3, "has no train split"),
    "unknown kind of file": (f"{TRAIN} --data {{notes_docx}}", 2, "no kind of file that is read here"),
    "unknown column": (f"{TRAIN} --data {{good_csv}} --text-column txet", 2, "did you mean text"),
    "unknown label column": (f"{TRAIN} --data {{good_csv}} --label-column lable", 2, "did you mean label"),
    "one class": (f"{TRAIN} --data {{one_class_csv}}", 3, "one label only, 'World'"),
    "a label only in test": (f"{TRAIN} --data {{new_in_test}}", 3, "'Weather'"),
    "a label that isn't named": (
        f"{TRAIN} --data {{good_csv}} --label-names World,Sports,Business",
        3,
        "'Sci/Tech' is unknown",
    ),
    "regression": (f"{TRAIN} --data {{floats_csv}}", 3, "regression"),
    "empty text": (f"{TRAIN} --data {{empty_text_csv}}", 3, "row 7: the text is empty"),
    "blank text": (f"{TRAIN} --data {{blank_text_csv}}", 3, "row 7: the text is empty"),
    "a text that is no string": (f"{TRAIN} --data {{numbers_jsonl}}", 3, "row 2: the text is 3, expected a string"),
    "NUL byte": (f"{TRAIN} --data {{nul_csv}}", 3, "line 8 holds a NUL byte"),
    "broken UTF-8": (
        f"{TRAIN} --data {{utf8_csv}}",
        3,
        "utf8.csv is neither UTF-8 nor plainly Windows-1252: byte 0xcf",
    ),
    "stray quote": (f"{TRAIN} --data {{quote_csv}}", 3, "row 7 (line 8) opens a quote that isn't closed properly"),
    "a quote that is never closed": (f"{TRAIN} --data {{open_quote_csv}}", 3, "row 7 (line 8) opens a quote"),
    "truncated Parquet": (f"{TRAIN} --data {{cut_parquet}}", 6, "cut.parquet is no readable Parquet file"),
    # training
    "existing --out": (TRAIN.replace("{out}", "{run}") + " --data mini-news", 2, "exists"),
    "--overwrite of what is no run": (
        TRAIN.replace("{out}", "{no_test}") + " --data mini-news --overwrite",
        2,
        "is no run",
    ),
    "unwritable --out": (TRAIN.replace("{out}", "{good_csv}/run") + " --data mini-news", 7, "can't write"),
    "random weights without tokenizer": (
        "train --base bert --base-weights random:0 --data mini-news --out {out}",
        2,
        "come without a tokenizer",
    ),
    "a seed in words": (
        "train --base bert --base-weights random:x --data mini-news --out {out}",
        2,
        "random:SEED needs a whole number",
    ),
    "no such base weights": (
        "train --base bert --base-weights {home}/nowhere --data mini-news --out {out}",
        2,
        "there is no folder",
    ),
    "pickled base weights": (
        "train --base bert --base-weights {pickled_base} --data mini-news --out {out}",
        6,
        "never unpickled",
    ),
    "no such tokenizer": (f"{TRAIN} --data mini-news --tokenizer {{empty_folder}}", 2, "there is no tokenizer in"),
    "fp16 on a CPU": (TRAIN.replace("fp32", "fp16") + " --data mini-news", 7, "fp16 needs a GPU"),
    "unknown tracker": (f"{TRAIN} --data mini-news --report-to tensorbord", 2, "did you mean tensorboard"),
    "--resume without a run": ("train --resume", 2, "name it with --out RUN"),
    "--resume of what is no run": ("train --resume --out {home}/nowhere", 2, "is no run"),
    # a trained run
    "RUN is no run": (f"classify {{empty_folder}} text {ON}", 2, "is no run and no adapter folder"),
    "RUN is not there": (f"evaluate {{home}}/nowhere --data mini-news {ON}", 2, "is no run and no adapter folder"),
    "RUN is a file": (
        f"predict {{good_csv}} --input {{good_csv}} --output {{out}} {ON}",
        2,
        "is no run and no adapter folder",
    ),
    "DIR is no adapter": ("inspect {empty_folder}", 2, "is no run and no adapter folder"),
    "adapter of another base": (
        "classify {run} text --base-weights {other_base} --precise",
        2,
        "trained on other weights",
    ),
    "damaged adapter": (f"classify {{damaged_run}} text {ON}", 6, "sha256 differs"),
    "damaged adapter, inspected": ("inspect {damaged_run}", 6, "sha256 differs"),
    "cut adapter": (f"classify {{cut_adapter}} text {ON}", 6, "damaged"),
    "damaged tokenizer": (f"classify {{no_tokenizer_adapter}} text {ON}", 6, "can't be read"),
    "no text": (f"classify {{run}} {ON}", 2, "TEXT"),
    "empty text on the command line": (f"classify {{run}} good '' {ON}", 3, "text 2 is empty"),
    "adapters scaled too far": (f"classify {{run}} text {ON} --adapter-scale 3", 2, "from 0 to 2, got 3"),
    "a scale that is none": (f"{PREDICT} --input {{good_csv}} --adapter-scale half", 2, "invalid float value: 'half'"),
    "no scale at all": (f"{EVALUATE} --data {{good_csv}} --adapter-scale nan", 2, "from 0 to 2, got nan"),
    "a flag of training": ("classify {run} text --precision fp32", 2, "did you mean --precise"),
    "no --data": (EVALUATE, 2, "--data"),
    "split not there": (f"{EVALUATE} --data {{no_test}} --split test", 2, "has no split 'test'"),
    "unknown split": (f"{EVALUATE} --data mini-news --split tset", 2, "has no split 'tset'"),
    "unknown split of a file": (f"{EVALUATE} --data {{good_csv}} --split tset", 2, "did you mean test"),
    "unknown label": (f"{EVALUATE} --data {{unknown_label_csv}}", 3, "row 6: label 'Weather' is unknown"),
    "unknown column at evaluate": (f"{EVALUATE} --data {{good_csv}} --text-column body", 2, "no column 'body'"),
    "unwritable report": (EVALUATE.replace("{out}", "{good_csv}/report") + " --data {good_csv}", 7, "good.csv"),
    "missing input": (f"{PREDICT} --input {{home}}/nowhere.csv", 3, "there is no file"),
    "a folder as input": (f"{PREDICT} --input {{empty_folder}}", 2, "is a folder"),
    "a bad row in the input": (f"{PREDICT} --input {{empty_text_csv}}", 3, "row 7: the text is empty"),
    "existing --output": (PREDICT.replace("{out}", "{existing_csv}") + " --input {good_csv}", 2, "exists"),
    "sample of other rows": (
        f"predict {{run}} {ON} --output {{out}} --input {{good_csv}} --sample-submission {{sample_csv}}",
        3,
        "rows, sample.csv 1",
    ),
    "sample and format": (
        f"{PREDICT} --input {{good_csv}} --sample-submission {{sample_csv}}",
        2,
        "leave out --format",
    ),
    "an unknown way with long texts": (f"{PLAN} --long-text head-tial", 2, "did you mean head-tail"),
    "unknown format": (f"{PREDICT} --input {{good_csv}} --format xlsx", 2, "choose one of csv, kaggle"),
    "unwritable --output": (PREDICT.replace("{out}", "{good_csv}/o.csv") + " --input {good_csv}", 7, "can't write"),
}


@pytest.mark.parametrize(("words", "code", "phrase"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_a_mistake_gets_one_sentence_its_exit_code_and_nothing_half_written(ask, bad, tmp_path, words, code, phrase):
    import shlex

    import torch

    if "fp16" in words and torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so fp16 is no mistake here")
    out = tmp_path / "out"
    argv = [word.format(**bad, out=out) for word in shlex.split(words)]
    before = snapshot(bad["home"]) | snapshot(bad["run"])

    plain = ask(*argv)
    assert plain.code == code, plain.err
    assert phrase in plain.err
    assert plain.out == ""
    assert "Traceback" not in plain.err

    answer = ask(*argv, "--json")
    error = answer.json["error"]
    assert error.keys() == {"code", "kind", "message", "fix"}
    assert answer.code == error["code"] == code
    assert phrase in f"{error['message']} {error['fix']}"
    assert error["fix"]
    assert "\n" not in error["message"]

    assert not out.exists()
    assert snapshot(bad["home"]) | snapshot(bad["run"]) == before


def snapshot(folder: Path) -> dict[Path, int]:
    """Every path below a folder, files with their time of change."""
    return {path: path.stat().st_mtime_ns if path.is_file() else 0 for path in folder.rglob("*")}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows hands on UTF-16, which can always be decoded")
@pytest.mark.parametrize(
    "words", ["classify {run} {odd}", "train --data {odd}", "plan --base {odd}", "inspect {odd}", "{odd}"]
)
def test_bytes_that_are_no_text_are_refused_in_every_place(ask, run, words):
    odd = os.fsdecode(b"caf\xe9")  # as Python hands them on
    answer = ask(*words.format(run=run, odd=odd).split(), "--json")
    assert answer.code in (2, 3)
    assert answer.json["error"]["code"] == answer.code
    assert "Traceback" not in answer.err


LIMITED = """
import resource, sys
from textlora.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes to stand for a full disk")
@pytest.mark.slow
@pytest.mark.parametrize("limit", [100, 3_000, 20_000])
def test_a_disk_that_fills_up_while_training_is_said_and_no_finished_run_is_claimed(train_words, tmp_path, limit):
    """A limit on the size of a file stands for a full disk; each limit stops the run in another file."""
    answer = spawn_python(LIMITED, limit, *train_words, "--data", "mini-news", "--json")
    assert answer.code == answer.json["error"]["code"] == 7, answer.err
    assert "the disk is full" in answer.json["error"]["message"]
    assert "Traceback" not in answer.err
    assert not (tmp_path / "out" / runs.MANIFEST).exists()


# ---------------------------------------------------------------------------------------------------------------- make

MAKE = shutil.which("make")
needs_make = pytest.mark.skipif(MAKE is None or sys.platform == "win32", reason="there is no make here")
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3")
NO_PYTHON = "exit 127"  # pyenv's shim of a version that isn't installed
OLD_PYTHON = """case "$1" in --version) echo Python 3.9.6;; -c) test -z "$2";; *) touch used;; esac"""
NO_ENSUREPIP = """case "$*" in
    "-m pip"*) exit 1;;
    "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; exit 1;;
esac"""
GOOD_PYTHON = """echo "$(basename "$0") $*" >> used
case "$*" in "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python;; esac"""


def make_ready(folder: Path, pythons: dict[str, str]) -> Answer:
    """`make .venv/.ready` in `folder`, where every Python is a shell script; those not named don't run."""
    shutil.copy(Path(__file__).parents[1] / "Makefile", folder)
    (folder / "pyproject.toml").touch()
    (folder / "bin").mkdir()
    for name in PYTHONS:
        script = folder / "bin" / name
        script.write_text(f"#!/bin/sh\n{pythons.get(name, NO_PYTHON)}\n")
        script.chmod(0o755)
    env = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([str(MAKE), ".venv/.ready"], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    return Answer(done.returncode, done.stdout, done.stderr)


@needs_make
@pytest.mark.parametrize("chosen", PYTHONS)
def test_make_takes_the_first_python_that_runs(tmp_path, chosen):
    there = PYTHONS[PYTHONS.index(chosen) :]
    answer = make_ready(tmp_path, dict.fromkeys(there, GOOD_PYTHON))
    assert answer.code == 0, answer.err
    assert f"{chosen} -m venv .venv" in (tmp_path / "used").read_text().splitlines()
    assert (tmp_path / ".venv" / ".ready").is_file()


@needs_make
@pytest.mark.parametrize(("script", "found"), [(OLD_PYTHON, "Python 3.9.6"), (NO_PYTHON, "none")])
def test_make_says_which_python_it_needs_and_what_it_found(tmp_path, script, found):
    answer = make_ready(tmp_path, {"python3": script})
    assert answer.code != 0
    said = f"textlora needs Python 3.11 or newer, found {found}: make PYTHON=/path/to/python3.11"
    assert answer.out.splitlines()[1:] == [said]
    assert not (tmp_path / ".venv").exists()
    assert not (tmp_path / "used").exists()


@needs_make
def test_make_removes_a_venv_without_pip_and_names_the_package(tmp_path):
    answer = make_ready(tmp_path, {"python3.12": NO_ENSUREPIP})
    assert answer.code != 0
    assert "without pip, now removed: install python3.12-venv" in answer.out.splitlines()[-1]
    assert not (tmp_path / ".venv").exists()


@needs_make
def test_make_makes_a_venv_that_was_left_half_made_again(tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "half").touch()
    answer = make_ready(tmp_path, {"python3.11": GOOD_PYTHON})
    assert answer.code == 0, answer.err
    assert "removing .venv: it has no pip" in answer.out
    assert not (tmp_path / ".venv" / "half").exists()
