"""A user's first hour: the export of a support desk, README's everyday commands as they stand, no other flag."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import tickets
from conftest import ROOT

from textlora import bases, cli
from textlora.data import delimited, lines

README = (ROOT / "README.md").read_text(encoding="utf-8")
EVERYDAY = README.split("Three everyday commands:\n\n```sh\n")[1].split("```")[0].splitlines()


def say(command: str) -> tuple[str, str]:
    """What a command prints as result and to people. It must succeed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(shlex.split(command, comments=True)[1:])
    assert code == 0, err.getvalue()
    print(err.getvalue(), out.getvalue())
    return out.getvalue(), err.getvalue()


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """Where the user stands: tickets with their queues, others kept apart, and new ones that have none yet."""
    tickets.write(tmp_path / "tickets.csv", tickets.rows(0, tickets.counts()))
    tickets.write(tmp_path / "test.csv", others(1, 4))
    tickets.write(tmp_path / "new.csv", others(2, 8), ("ticket_id", "created", "subject", "body"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def others(seed: int, part: int) -> list[tickets.Row]:
    """Fewer tickets, of every queue one at least."""
    return tickets.rows(seed, {queue: max(1, count // part) for queue, count in tickets.counts().items()})


def test_the_export_is_as_messy_as_excels(desk):
    raw = (desk / "tickets.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbfticket_id;created;subject;body;queue;priority\r\n")
    assert b'""leave it""' in raw
    rows = list(delimited.cells(desk / "tickets.csv", ("subject", "body", "queue")))
    assert len(list(lines.lines(desk / "tickets.csv"))) > 5 * len(rows)  # line breaks inside cells
    by_queue = Counter(row[2] for row in rows)
    assert len(by_queue) == 23
    assert (max(by_queue.values()), min(by_queue.values())) == (200, 3)
    assert any(not subject for subject, _, _ in rows)


@pytest.mark.slow
def test_readmes_commands_train_on_it_judge_and_predict_without_another_flag(desk):
    if bases.present(bases.find("minilm")) == "absent":
        pytest.skip("the embedded base isn't installed")
    commands = [command.replace("reviews.csv", "tickets.csv") for command in EVERYDAY]
    hour = {line.split()[1]: say(line) for line in ("textlora data check tickets.csv", *commands)}
    assert list(hour) == ["data", "train", "evaluate", "predict"]
    train_says_what_was_joined_cut_and_weighted(hour, desk)
    data_check_had_said_so_before(hour)
    evaluate_shows_every_queue_and_beats_naming_the_largest_each_time(hour, desk)
    predict_writes_a_row_for_each_ticket_in_order(hour, desk)
    what_train_says_comes_next_works(hour)


Hour = dict[str, tuple[str, str]]  # what each verb printed


def train_says_what_was_joined_cut_and_weighted(hour: Hour, desk: Path) -> None:
    out, said = hour["train"]
    assert out == "runs/mine\n"
    assert "tickets.csv: cells are separated by semicolons" in said
    assert "texts: subject + body, joined by a blank; labels: queue; not used: ticket_id, created, priority" in said

    cut = re.findall(r"(\d+) of \d+ (\w+) texts \(\S+ %\) are cut at 128 tokens; \S+ % of all tokens are lost", said)
    threads = sum(row["body"].count("\n> ") > 3 for row in tickets.rows(0, tickets.counts()))
    assert sum(int(count) for count, _ in cut) == threads == 3

    assert "class weights sqrt" in said
    weights = re.search(r"weighted by label: one of (.+) (\S+) \((\d+) rows\), one of Billing (\S+) \(180 rows\)", said)
    assert weights
    assert weights[1] in tickets.QUEUES
    assert float(weights[2]) / float(weights[4]) == pytest.approx((180 / int(weights[3])) ** 0.5, rel=0.02)

    summary = json.loads((desk / "runs/mine/summary.json").read_text())
    assert summary["best_validation_accuracy"] > summary["baselines"]["majority"] + 0.2
    assert summary["best_validation_f1_macro"] > summary["baselines_f1_macro"]["tfidf-logreg"]


def data_check_had_said_so_before(hour: Hour) -> None:
    seen, _ = hour["data"]
    assert "23 labels, 66.67:1 from the most frequent to the rarest" in seen
    longest = re.search(r"^tokens .* longest (\S+)$", seen, re.M)
    assert longest
    assert 1150 < int(longest[1].replace(",", "")) < 1300
    fitted = re.findall("^fitted to .*", seen, re.M)
    assert fitted == re.findall("^fitted to .*", hour["train"][1], re.M)


def evaluate_shows_every_queue_and_beats_naming_the_largest_each_time(hour: Hour, desk: Path) -> None:
    table, said = hour["evaluate"]
    report = json.loads((desk / "runs/mine/evaluation/report.json").read_text())["splits"]["test"]
    assert "texts: subject + body, joined by a blank" in said
    assert re.search(r"1 of \d+ test texts \(\S+ %\) are cut at 128 tokens", said)
    assert "WARNING" not in said
    assert {row["label"] for row in report["per_class"]} == set(tickets.QUEUES)
    assert all(re.search(f"^{re.escape(queue)} ", table, re.M) for queue in tickets.QUEUES)
    assert report["accuracy_ci"][0] > max(row["total"] for row in report["per_class"]) / report["n"]


def predict_writes_a_row_for_each_ticket_in_order(hour: Hour, desk: Path) -> None:
    _, said = hour["predict"]
    asked = others(2, 8)
    with (desk / "answers.csv").open(newline="", encoding="utf-8") as file:
        answers = list(csv.DictReader(file))
    assert "texts: subject + body, joined by a blank" in said
    assert re.search(r"1 of \d+ texts \(\S+ %\) are cut at 128 tokens", said)
    assert [answer["id"] for answer in answers] == [str(number) for number in range(len(asked))]
    assert {answer["label"] for answer in answers} <= set(tickets.QUEUES)
    right = sum(answer["label"] == row["queue"] for answer, row in zip(answers, asked, strict=True))
    print(f"{right} of {len(asked)} new tickets are right")
    assert right > 1.5 * max(Counter(row["queue"] for row in asked).values())  # in order, or they couldn't be


def what_train_says_comes_next_works(hour: Hour) -> None:
    command = re.findall("^Next: (.*)", hour["train"][1], re.M)[0].replace("your text", "Mein Kennwort geht nicht")
    assert say(command)[0].split("\t")[0] in tickets.QUEUES
