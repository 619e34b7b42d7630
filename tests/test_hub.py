"""The hub: real clients against a stub on loopback. Commits are recorded, caches honoured, refusals are one sentence.

HF_ENDPOINT is read when huggingface_hub is imported, so each client is a process of its own; one asks many questions.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, corpus_rows, make_base
from stub_hub import Repo, StubHub

from textlora import hub as hubs
from textlora.data import hub as data_hub
from textlora.errors import UsageError

# Asks each question on stdin, [what, name, revision]; answers with what came of it.
CLIENT = """
import json, sys, traceback
from dataclasses import replace
from textlora import bases, data
from textlora.errors import TextLoraError

def ask(what, name, revision):
    if what == "data":
        found = data.load(name, revision=revision)
        splits = [split.name for split in (found.train, found.validation, found.test) if split]
        return dict(commit=found.revision, labels=found.label_names, splits=splits, notes=found.notes)
    base = replace(bases.find("roberta"), hub_id=name, revision=revision)
    if what == "shapes":
        return dict(hidden_size=bases.shapes(base).hidden_size)
    pinned = bases.pinned(base)
    return dict(commit=pinned.revision, same=bases.files(pinned).name == pinned.revision)

def answer(question):
    try:
        return dict(code=0, **ask(*question))
    except TextLoraError as error:
        return dict(code=error.code, words=f"{error.message} -- {error.fix}")
    except Exception:
        return dict(code=1, words=traceback.format_exc())

limit = json.loads(sys.argv[1])
if limit:
    import resource, signal
    import pyarrow, datasets, huggingface_hub  # their files are written before the disk is full
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
print(json.dumps([answer(question) for question in json.load(sys.stdin)]))
"""


def client_env(url: str, home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_OFFLINE"))}
    quiet = {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    }
    return {**kept, **quiet, "HF_ENDPOINT": url, "HF_HOME": str(home), "PYTHONPATH": str(ROOT / "src"), **more}


def ask(
    url: str, home: Path, questions: list[tuple[str, str, str]], file_limit: int = 0, **more: str
) -> list[dict[str, Any]]:
    """What a new process makes of each (what, name, revision)."""
    command = [sys.executable, "-c", CLIENT, str(file_limit)]
    env = client_env(url, home, **more)
    done = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ------------------------------------------------------------------------------------------------------- what it serves

LABELS = ("Business", "Sci/Tech", "Sports", "World")


def parquet(split: str, rows: int, path: Path, hide: bool = False) -> None:
    """Rows of the embedded corpus as the `datasets` library writes them, ClassLabel and all."""
    import datasets

    names = sorted({row["label"] for row in corpus_rows("train")})
    chosen = corpus_rows(split)[:: max(1, len(corpus_rows(split)) // rows)]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(LABELS))})
    labels = [-1 if hide else names.index(row["label"]) for row in chosen]
    made = datasets.Dataset.from_dict({"text": [row["text"] for row in chosen], "label": labels}, features=features)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.to_parquet(path)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Repo]:
    """Small repositories of both kinds, each with a way of its own to be right or wrong."""
    home = tmp_path_factory.mktemp("repositories")
    for split in ("train", "test"):
        parquet(split, 80, home / f"{split}.parquet")
    parquet("test", 80, home / "hidden.parquet", hide=True)
    train, test, hidden = ((home / f"{name}.parquet").read_bytes() for name in ("train", "test", "hidden"))
    names = {"train": "data/train-00000-of-00001.parquet", "test": "data/test-00000-of-00001.parquet"}
    both = {"README.md": b"# Headlines\n", names["train"]: train, names["test"]: test}
    card = b"---\nconfigs:\n- config_name: %s\n  data_files: a/*.parquet\n"
    card += b"- config_name: two\n  data_files: b/*.parquet\n---\n"
    odd = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: whole\n    path: a/*.parquet\n---\n"
    two = {"a/train-00000-of-00001.parquet": train, "b/train-00000-of-00001.parquet": train}
    csv = b"text,label\n" + b"".join(b"a text of number %d,%s\n" % (i, b"ab"[i % 2 : i % 2 + 1]) for i in range(40))
    roberta, bert = (Repo.of(make_base(family, home / family)) for family in ("roberta", "bert"))
    without = {name: content for name, content in roberta.files.items() if name != "model.safetensors"}
    kinds = {
        ("datasets", "fancyzhx/ag_news"): Repo(both),
        ("datasets", "stub/slow"): Repo(both, "slow"),
        ("datasets", "stub/csv"): Repo({"train.csv": csv}),
        ("datasets", "stub/two"): Repo({"README.md": card % b"one", **two}),
        ("datasets", "stub/two-default"): Repo({"README.md": card % b"default", **two}),
        ("datasets", "stub/hidden"): Repo({**both, names["test"]: hidden}),
        ("datasets", "stub/test-only"): Repo({names["test"]: test}),
        ("datasets", "stub/odd"): Repo({"README.md": odd, "a/x.parquet": train}),
        ("datasets", "stub/reserved"): Repo({"README.md": odd.replace(b"whole", b"all"), "a/x.parquet": train}),
        ("datasets", "stub/bad-card"): Repo({"README.md": b"---\nconfigs: [}\n---\n", names["train"]: train}),
        ("datasets", "stub/no-data"): Repo({"README.md": b"# Nothing yet\n"}),
        ("datasets", "stub/script"): Repo({"script.py": b"raise SystemExit('it ran')", "README.md": b"# A program\n"}),
        ("datasets", "stub/converted"): Repo(
            {"converted.py": b"raise SystemExit('it ran')"},
            branches={
                "refs/convert/parquet": Repo({"default/train/0000.parquet": train, "default/test/0000.parquet": test})
            },
        ),
        ("models", "stub/converted"): Repo(
            {**without, "pytorch_model.bin": b"a pickle"}, branches={"refs/pr/1": roberta}
        ),
        ("datasets", "stub/damaged"): Repo({names["train"]: b"PAR1" + train[4:900]}),
        ("datasets", "stub/cut"): Repo(both, "cut"),
        ("models", "FacebookAI/roberta-base"): roberta,
        ("models", "stub/minilm-like"): bert,
        ("models", "stub/slow"): Repo(roberta.files, "slow"),
        ("models", "stub/pickle"): Repo({**without, "pytorch_model.bin": b"cos\nsystem\n(S'echo it ran'\ntR."}),
        ("models", "stub/no-weights"): Repo(without),
        ("models", "stub/no-tokenizer"): Repo(
            {n: c for n, c in roberta.files.items() if not n.startswith("tokenizer")}
        ),
        ("models", "stub/cut"): Repo(roberta.files, "cut"),
    }
    for scenario in ("unauthorized", "bad-token", "forbidden", "gated", "missing", "limited", "fault"):
        kinds["datasets", f"stub/{scenario}"] = Repo(both, scenario)
        kinds["models", f"stub/{scenario}"] = Repo(roberta.files, scenario)
    return kinds


@pytest.fixture(scope="module")
def hub(repositories: dict[tuple[str, str], Repo]) -> Iterator[StubHub]:
    with StubHub(repositories) as served:
        yield served


OTHER = "0" * 40
GOOD = [  # (what, name, revision), what the answer must hold
    (("data", "ag_news", ""), {"labels": list(LABELS), "splits": ["train", "validation", "test"]}),
    (("data", "fancyzhx/ag_news", "main"), {"splits": ["train", "validation", "test"]}),
    (("data", "stub/slow", ""), {"splits": ["train", "validation", "test"]}),
    (("data", "stub/csv", ""), {"labels": ["a", "b"], "splits": ["train", "validation"]}),
    (("data", "stub/two:two", ""), {"splits": ["train", "validation"]}),
    (("data", "stub/two-default", ""), {"splits": ["train", "validation"]}),
    (("data", "stub/hidden", ""), {"splits": ["train", "validation"]}),
    (("data", "stub/converted", "refs/convert/parquet"), {"splits": ["train", "validation", "test"]}),
    (("base", "stub/converted", "refs/pr/1"), {"same": True}),
    (("base", "FacebookAI/roberta-base", ""), {"same": True}),
    (("base", "FacebookAI/roberta-base", "main"), {"same": True}),
    (("base", "stub/minilm-like", ""), {"same": True}),
    (("base", "stub/slow", ""), {"same": True}),
    (("shapes", "FacebookAI/roberta-base", "main"), {"hidden_size": 32}),
]
BAD = [  # (what, name, revision), exit code, words
    (
        ("data", "stub/gated", ""),
        7,
        "gated: its owner asks for consent -- give it at .*/datasets/stub/gated .*hf auth login",
    ),
    (("data", "stub/unauthorized", ""), 2, "shows no data set stub/unauthorized .misspelt, or private.*hf auth login"),
    (("data", "stub/bad-token", ""), 7, "refuses the data set stub/bad-token .401.*hf auth login"),
    (("data", "stub/forbidden", ""), 7, "refuses the data set stub/forbidden .403.*hf auth login"),
    (("data", "stub/missing", ""), 2, "shows no data set stub/missing"),
    (("data", "fancyzhx/agnews", ""), 2, "did you mean fancyzhx/ag_news"),
    (("data", "fancyzhx/ag_news", "v9"), 2, "has no revision 'v9'"),
    (("data", "fancyzhx/ag_news", OTHER), 2, "has no revision '000"),
    (("data", "stub/limited", ""), 7, "takes no more questions for now .429"),
    (("data", "stub/fault", ""), 7, "has a fault .503"),
    (("data", "stub/cut", ""), 7, "stub/cut"),
    (("data", "stub/two", ""), 2, "comes in configurations: .*'one', 'two'.* -- name one as stub/two:configuration"),
    (("data", "stub/two:three", ""), 2, "comes in configurations: .*'three' not found"),
    (("data", "stub/test-only", ""), 3, "has no train split, only test"),
    (("data", "stub/odd", ""), 3, "no split named train, validation or test, only whole"),
    (("data", "stub/reserved", ""), 3, "stub/reserved can't be read: `all` is"),
    (("data", "stub/bad-card", ""), 3, "stub/bad-card can't be read"),
    (("data", "stub/no-data", ""), 3, "stub/no-data can't be read"),
    (("data", "stub/script", ""), 6, "program that loads data, which is never run"),
    (("data", "stub/converted", ""), 6, "--data-revision refs/convert/parquet"),
    (("base", "stub/converted", ""), 6, "discussions for a conversion .--base-revision refs/pr/N"),
    (("data", "stub/damaged", ""), 6, "holds a damaged file"),
    (("base", "stub/gated", ""), 7, "the base stub/gated is gated"),
    (("base", "stub/unauthorized", ""), 2, "shows no base stub/unauthorized"),
    (("base", "stub/bad-token", ""), 7, "refuses the base stub/bad-token .401"),
    (("base", "stub/missing", ""), 2, "shows no base stub/missing"),
    (("base", "FacebookAI/roberta-bse", ""), 2, "did you mean FacebookAI/roberta-base"),
    (("base", "FacebookAI/roberta-base", "v9"), 2, "has no revision 'v9'"),
    (("shapes", "FacebookAI/roberta-base", "v9"), 2, "has no revision 'v9'"),
    (("base", "stub/limited", ""), 7, "429"),
    (("base", "stub/fault", ""), 7, "503"),
    (("base", "stub/cut", ""), 7, "stub/cut"),
    (("base", "stub/pickle", ""), 6, "holds pytorch_model.bin, which is never unpickled"),
    (("base", "stub/no-weights", ""), 7, "only partly on this machine"),
    (("base", "stub/no-tokenizer", ""), 7, "only partly on this machine"),
]


@pytest.fixture(scope="module")
def answers(hub: StubHub, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], dict[str, Any]]:
    questions = [question for question, *_ in (*GOOD, *BAD)]
    began = time.monotonic()
    found = ask(hub.url, tmp_path_factory.mktemp("answers"), questions)
    print(f"{len(questions)} questions in {time.monotonic() - began:.0f} s")
    return dict(zip(questions, found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "holds"), GOOD, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_what_the_hub_gives_is_loaded_at_the_newest_commit(answers, repositories, question, holds):
    answer = answers[question]
    assert answer["code"] == 0, answer
    assert {key: answer[key] for key in holds} == holds
    name = data_hub.named(question[1])
    assert name
    if question[0] != "shapes":
        kind = "datasets" if question[0] == "data" else "models"
        expected = repositories[kind, name[0]].at(question[2] or "main")
        assert expected
        assert answer["commit"] == expected.commit


@pytest.mark.slow
@pytest.mark.parametrize(("question", "code", "words"), BAD, ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_what_the_hub_refuses_is_one_sentence(answers, question, code, words):
    answer = answers[question]
    assert answer["code"] == code, answer
    assert re.search(words, answer["words"]), answer["words"]
    assert "\n" not in answer["words"]
    assert "Traceback" not in answer["words"]


# ------------------------------------------------------------------------------------------------------ without the hub

AG, ROBERTA = ("data", "ag_news", ""), ("base", "FacebookAI/roberta-base", "")
NOBODY = "http://127.0.0.1:9"  # the port of `discard`: nobody listens
OFFLINE = [{}, {"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}]


@pytest.fixture(scope="module")
def filled(hub: StubHub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A cache with both kinds in it, and what was answered when it was filled."""
    home = tmp_path_factory.mktemp("filled")
    return home, ask(hub.url, home, [AG, ROBERTA])


@pytest.mark.slow
@pytest.mark.parametrize("offline", OFFLINE, ids=lambda env: " ".join(env) or "no answer")
def test_without_the_hub_the_newest_in_the_cache_is_used_and_said(filled, offline):
    home, first = filled
    commit = first[0]["commit"]
    questions = [AG, ROBERTA, ("data", "ag_news:default", commit), ("base", ROBERTA[1], first[1]["commit"])]
    again = ask(NOBODY, home, questions, **offline)
    assert [answer["code"] for answer in again] == [0] * 4, again
    assert [answer["commit"] for answer in again] == [commit, first[1]["commit"]] * 2
    assert (
        again[0]["notes"][0] == f"fancyzhx/ag_news, configuration default, commit {commit} from the cache, not the hub"
    )
    assert first[0]["notes"][0].endswith("from the hub")


@pytest.mark.slow
@pytest.mark.parametrize("offline", OFFLINE, ids=lambda env: " ".join(env) or "no answer")
def test_without_the_hub_what_is_not_cached_is_a_resource_error(filled, offline):
    questions = [
        ("data", "imdb", ""),
        ("data", "ag_news", OTHER),
        ("data", "ag_news", "v1"),
        ("base", "stub/minilm-like", ""),
    ]
    found = ask(NOBODY, filled[0], questions, **offline)
    assert [answer["code"] for answer in found] == [7] * 4, found
    expected = "offline mode is on" if offline else "the hub gave: "
    assert all(expected in answer["words"] for answer in found), found


@pytest.mark.slow
def test_a_snapshot_that_lost_a_file_is_not_taken_for_whole(hub, tmp_path):
    ask(hub.url, tmp_path, [ROBERTA])
    next((tmp_path / "hub").rglob("snapshots/*/model.safetensors")).unlink()
    [answer] = ask(NOBODY, tmp_path, [ROBERTA])
    assert answer["code"] == 7
    assert "FacebookAI/roberta-base is" in answer["words"], answer
    [mended] = ask(hub.url, tmp_path, [ROBERTA])
    assert mended["code"] == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_is_told_of_both_kinds_and_leaves_nothing_that_passes_for_whole(hub, tmp_path):
    for question in (AG, ROBERTA):
        [answer] = ask(hub.url, tmp_path, [question], file_limit=8000)
        assert answer["code"] == 7
        assert f"the disk is full: the {'base' if question[0] == 'base' else 'data set'}" in answer["words"], answer
        [mended] = ask(hub.url, tmp_path, [question])
        assert mended["code"] == 0, mended


@pytest.mark.slow
def test_a_newer_commit_is_taken_and_the_older_one_still_is_what_it_was(hub, repositories, filled, tmp_path):
    key = ("datasets", "stub/moving")
    hub.repos[key] = Repo(repositories["datasets", "stub/csv"].files)
    old = hub.repos[key].commit
    [first] = ask(hub.url, tmp_path, [("data", "stub/moving", "")])
    hub.repos[key] = Repo({**hub.repos[key].files, "test.csv": b"text,label\none more text,a\n"})
    new, pinned = ask(hub.url, tmp_path, [("data", "stub/moving", ""), ("data", "stub/moving:default", old)])
    assert (first["commit"], new["commit"], pinned["commit"]) == (old, hub.repos[key].commit, old)
    [offline] = ask(NOBODY, tmp_path, [("data", "stub/moving", "")])
    assert offline["commit"] == new["commit"]
    assert (first["splits"], new["splits"][-1], pinned["splits"]) == (pinned["splits"], "test", ["train", "validation"])


# ----------------------------------------------------------------------------------------------------- the command line


def textlora(env: dict[str, str], *argv: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON on stdout, stderr."""
    command = [sys.executable, "-m", "textlora", *argv, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_base_and_data_by_hub_name_train_online_then_offline_then_resume(repositories, tmp_path):
    base, rows = (
        repositories[key].commit for key in (("models", "FacebookAI/roberta-base"), ("datasets", "fancyzhx/ag_news"))
    )
    short = ("--max-steps", "3", "--lora-r", "2", "--max-length", "32", "--batch-tokens", "512", "--precision", "fp32")
    train = ("train", "--base", "roberta-base", "--data", "ag_news", *short)
    with StubHub(repositories) as served:
        began = time.monotonic()
        env = client_env(served.url, tmp_path / "home")
        code, _, said = textlora(env, *train, "--out", str(tmp_path / "run"))
        print(f"online {time.monotonic() - began:.1f} s")
        assert code == 0, said
        assert f"base FacebookAI/roberta-base, commit {base}" in said
        assert f"fancyzhx/ag_news, configuration default, commit {rows} from the hub" in said
        code, plan, _ = textlora(env, "plan", "--base", "roberta-base", "--base-revision", base)
        assert (code, plan["modules"][0]["in"]) == (0, 32)  # counted from that commit's config, not from ours

    offline = client_env(served.url, tmp_path / "home", HF_HUB_OFFLINE="1")
    began = time.monotonic()
    code, _, said = textlora(offline, *train, "--out", str(tmp_path / "again"))
    print(f"offline {time.monotonic() - began:.1f} s")
    assert code == 0, said
    weights = [(tmp_path / run / "adapter/adapter_model.safetensors").read_bytes() for run in ("run", "again")]
    assert weights[0] == weights[1]
    for run in ("run", "again"):
        recorded = json.loads((tmp_path / run / "environment.json").read_text())
        assert (recorded["base_revision"], recorded["data_revision"]) == (base, rows)
        settings = json.loads((tmp_path / run / "adapter/textlora.json").read_text())
        assert settings["base_revision"] == base
        assert json.loads((tmp_path / run / "adapter/adapter_config.json").read_text())["revision"] == base
        assert f'data_revision = "{rows}"' in (tmp_path / run / "config.toml").read_text()

    card = (tmp_path / "again/adapter/README.md").read_text()
    assert "datasets:\n- fancyzhx/ag_news\n" in card
    assert f'from_pretrained("FacebookAI/roberta-base", revision="{base}")' in card

    code, report, said = textlora(offline, "evaluate", str(tmp_path / "again"), "--data", "ag_news")
    assert (code, report["n"]) == (0, 100), said
    (tmp_path / "again" / "summary.json").unlink()  # as if it had been stopped before its end
    code, _, said = textlora(offline, "train", "--resume", "--out", str(tmp_path / "again"))
    assert code == 0, said
    assert "resuming at step" in said


@pytest.mark.slow
def test_a_base_of_no_list_is_planned_trained_and_used_by_its_hub_id(repositories, tmp_path):
    base = ("--base", "stub/minilm-like")
    short = ("--max-steps", "2", "--lora-r", "2", "--max-length", "32", "--batch-tokens", "512", "--precision", "fp32")
    with StubHub(repositories) as served:
        env = client_env(served.url, tmp_path / "home")
        code, plan, _ = textlora(env, "plan", *base)
        assert (code, plan["base"], plan["modules"][0]["in"]) == (0, "stub/minilm-like", 32)
        assert not any("model.safetensors" in path for path in served.asked)  # counting fetches no weights
        code, _, said = textlora(env, "train", *base, "--data", "mini-news", *short, "--out", str(tmp_path / "run"))
        assert code == 0, said
    offline = client_env(served.url, tmp_path / "home", HF_HUB_OFFLINE="1")
    code, report, said = textlora(offline, "classify", str(tmp_path / "run"), "a text")
    assert (code, len(report["results"])) == (0, 1), said
    code, found, _ = textlora(offline, "inspect", str(tmp_path / "run"))
    assert (code, found["base"], found["total"]) == (0, "stub/minilm-like", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("--data", "agnews"), 2, "did you mean ag_news"),
        (("--data", "nobody/nothing"), 7, "the data set nobody/nothing is not on this machine and the hub gave"),
        (("--data", "mini-news", "--data-revision", "main"), 2, "mini-news is no data set of the hub"),
        (
            ("--data", "mini-news", "--base", "roberta-base"),
            7,
            "the base FacebookAI/roberta-base is not on this machine",
        ),
        (("--data", "mini-news", "--base-weights", "x", "--base-revision", "main"), 2, "give one of the two"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_no_hub_is_one_sentence_on_the_command_line_too(tmp_path, argv, code, words):
    got, answer, said = textlora(client_env(NOBODY, tmp_path), "train", *argv, "--out", str(tmp_path / "run"))
    assert got == code == answer["error"]["code"]
    assert words in f"{answer['error']['message']} -- {answer['error']['fix']}"
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("ag_news", ("fancyzhx/ag_news", "")),
        ("emotion:unsplit", ("dair-ai/emotion", "unsplit")),
        ("owner/name", ("owner/name", "")),
        ("owner/na.me-1:a b", ("owner/na.me-1", "a b")),
        *(
            (source, None)
            for source in ("agnews", "./a/b", "../a", "/a/b", "a/b/c", "~/a", "", "a/", "C:\\a", "owner/")
        ),
    ],
)
def test_a_hub_name_is_a_known_one_or_owner_and_name(source, named):
    assert data_hub.named(source) == named


def test_every_short_name_stands_for_a_hub_name():
    assert all(hubs.NAME.fullmatch(name) for name in data_hub.NAMES.values())


@pytest.mark.parametrize("revision", ["", "main", "v1.0", "A" * 40, "0" * 39])
def test_only_a_whole_commit_is_a_commit(revision):
    assert not hubs.is_commit(revision)
    assert hubs.is_commit("0123456789abcdef" * 2 + "01234567")


def test_fetching_by_no_hub_name_says_what_one_is():
    with pytest.raises(UsageError, match="owner/name"):
        data_hub.fetch("agnews")
