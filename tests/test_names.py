"""Labels' names as texts: learned from where they help to tell rows left out, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import few
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from textlora import bases, names, predict, solved
from textlora import config as configs
from textlora.prepare import prepare
from textlora.tokens import tokenize
from textlora.train import train


def quiet(_: str) -> None:
    pass


def clouds(seed: int, each: int = 8, labels: int = 4, width: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions of rows around a centre a label, the rows' labels, and the centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(labels, width))
    ids = np.repeat(np.arange(labels), each)
    rows = centres[ids] + 3 * rng.normal(size=(len(ids), width))
    return *(v / np.linalg.norm(v, axis=1, keepdims=True) for v in (rows, centres)), ids  # type: ignore[return-value]


# ---------------------------------------------------------------------------------------------------------- what helps


def test_a_name_reads_as_a_sentence():
    assert names.sentences(["Sports", "sci_tech"]) == ["This text is about Sports.", "This text is about sci tech."]


@given(st.integers(0, 1000))
def test_no_names_change_nothing(seed):
    rows, centres, ids = clouds(seed)
    assert not names.gains(rows, ids, centres[:0], np.arange(0)).any()


@given(st.integers(0, 1000))
def test_names_near_their_rows_help_and_names_of_other_labels_harm(seed):
    rows, centres, ids = clouds(seed)
    assert names.gains(rows, ids, centres, np.arange(4)).mean() > 0
    assert names.gains(rows, ids, np.roll(centres, 1, axis=0), np.arange(4)).mean() < 0


def test_a_gain_is_that_of_the_rows_label_left_out_of_regression():
    rows, centres, ids = clouds(3)
    found = names.gains(rows, ids, centres, np.arange(4))
    rest, held = next(iter(solved.folds(ids)))
    without = LogisticRegression(max_iter=300).fit(rows[rest], ids[rest])
    told = LogisticRegression(max_iter=300).fit(np.r_[rows[rest], centres], np.r_[ids[rest], 0:4])
    expected = told.predict_log_proba(rows[held]) - without.predict_log_proba(rows[held])
    assert found[held] == pytest.approx(expected[np.arange(len(held)), ids[held]])


@pytest.mark.slow
@pytest.mark.skipif(bases.present(bases.find("minilm")) == "absent", reason="the embedded base isn't installed")
def test_on_news_their_names_help_and_numbers_do_not():
    """The real base: the one law that a tiny one can't show."""
    config = configs.load("minilm-fast", {"report_to": []})
    said: list[str] = []
    told = prepare(config, said.append, few(10))
    assert told.names is not None
    assert told.names.labels.tolist() == [0, 1, 2, 3]
    assert any("'This text is about World.'" in line for line in said)
    said.clear()
    assert prepare(config, said.append, few(10, called=list("0123"))).names is None
    assert any("--label-names" in line for line in said)


# ------------------------------------------------------------------------------------------------------- where they go


@pytest.fixture
def helpful(monkeypatch):
    monkeypatch.setattr(names, "standard_errors", lambda *_: 9.0)


def test_they_are_rows_more_of_their_labels(tiny_config, helpful):
    prepared = prepare(tiny_config("bert", loss="contrastive").checked(), quiet, few(6))
    tokens, ids = prepared.train, prepared.data.train.labels
    learned = prepared.learned
    assert learned.labels.tolist() == [*ids.tolist(), 0, 1, 2, 3]
    assert all((learned.tokens[i] == tokens[i]).all() for i in range(len(tokens)))
    alone = tokenize(prepared.tokenizer, names.sentences(prepared.labels), 48)
    assert all((learned.tokens[len(tokens) + i] == alone[i]).all() for i in range(4))


def test_a_label_without_rows_gives_no_name(tiny_config, helpful):
    prepared = prepare(tiny_config("bert", loss="contrastive").checked(), quiet, few(6, labels=3))
    assert prepared.learned.labels.tolist()[-3:] == [0, 1, 2]
    assert len(prepared.learned) == len(prepared.train) + 3


@pytest.mark.parametrize(("changes", "each"), [({"loss": "cross-entropy"}, 6), ({"loss": "contrastive"}, 120)])
def test_cross_entropy_and_many_rows_have_none(tiny_config, helpful, changes, each):
    prepared = prepare(tiny_config("bert", **changes).checked(), quiet, few(each))
    assert prepared.names is None
    assert len(prepared.learned) == len(prepared.train)


def test_with_too_few_rows_to_leave_some_out_nobody_knows(tiny_config):
    prepared = prepare(tiny_config("bert", loss="contrastive").checked(), quiet, few(3))
    assert prepared.names is None
    rows, centres, ids = clouds(0, each=3)
    assert np.isnan(names.standard_errors(rows, ids, centres, np.arange(4)))


def test_a_run_with_them_trains_twice_saves_and_answers(tiny_config, tiny_base, helpful, tmp_path):
    config = tiny_config("bert", loss="contrastive", refit=True)
    run = train(config, rows=few(6), out=tmp_path / "run", say=quiet)
    found = predict.load(run.folder, base_weights=str(tiny_base("bert")))
    assert found.predict_proba(["the match ended in a draw"]).shape == (1, 4)
    again = train(config, rows=few(6), out=tmp_path / "again", say=quiet)
    probabilities = [
        predict.load(one.folder, base_weights=str(tiny_base("bert"))).predict_proba(["rain"]) for one in (run, again)
    ]
    assert (probabilities[0] == probabilities[1]).all()
