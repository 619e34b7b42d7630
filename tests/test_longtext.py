"""Long texts: nothing changes for a text that fits; of one that doesn't, the stated part is read, and that is said."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import corpus_rows
from hypothesis import given
from hypothesis import strategies as st
from laws import tokens_of

from textlora import predict
from textlora.adapter import AdapterSettings
from textlora.config import CHOICES
from textlora.evaluate import evaluate
from textlora.longtext import HEAD_TAIL, SHARE, TRUNCATE, WINDOW_MEAN, Cut, Frame, head_of, spans
from textlora.tokens import Collator, Rows, fit, frame, load_tokenizer, tokenize, whole
from textlora.train import train
from textlora.trainer import step_loss

MODES = CHOICES["long_text"]
modes = st.sampled_from(MODES)
rooms = st.integers(2, 60)
contents = st.integers(0, 500)


def read(found: list[list[tuple[int, int]]]) -> list[list[int]]:
    """The places in the content that each row holds."""
    return [[place for start, end in row for place in range(start, end)] for row in found]


# --------------------------------------------------------------------------------------------------------------- spans


@given(contents, rooms, modes)
def test_a_row_never_holds_more_than_there_is_room_for_and_keeps_the_order(content, room, mode):
    rows = read(spans(content, room, mode))
    for places in rows:
        assert len(places) == min(content, room)
        assert places == sorted(set(places))
        assert set(places) <= set(range(content))


@given(rooms, modes, st.data())
def test_a_text_that_fits_is_read_whole_in_one_row(room, mode, data):
    content = data.draw(st.integers(0, room))
    assert read(spans(content, room, mode)) == [list(range(content))]


@given(contents, rooms)
def test_windows_cover_the_text_from_first_to_last_and_share_a_quarter(content, room):
    rows = read(spans(content, room, WINDOW_MEAN))
    assert sorted({place for row in rows for place in row}) == list(range(content))
    for one, following in itertools.pairwise(rows):
        assert len(set(one) & set(following)) >= room // SHARE
    if content > room:  # and there are no more of them than that takes
        assert len(rows) == 1 + -(-(content - room) // (room - room // SHARE))


@given(contents, rooms)
def test_head_tail_keeps_both_ends(content, room):
    (places,) = read(spans(content, room, HEAD_TAIL))
    if content > room:
        head = head_of(room)
        assert places == [*range(head), *range(content - room + head, content)]


def test_the_split_is_the_papers():
    assert (head_of(510), 510 - head_of(510)) == (128, 382)  # arXiv 1905.05583


@pytest.mark.parametrize(
    ("mask", "expected"),
    [([1, 0, 1], Frame(1, 1)), ([1, 0, 0, 1, 1], Frame(1, 2)), ([0, 0], Frame(0, 0)), ([1, 1], Frame(2, 0))],
)
def test_the_frame_is_the_special_tokens_around_the_content(mask, expected):
    assert Frame.of(mask) == expected


# -------------------------------------------------------------------------------------------------------------- tokens


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base("roberta"))


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=80), min_size=1, max_size=5), st.integers(4, 40), modes)
def test_rows_are_bounded_framed_and_say_whose_they_are(tokenizer, texts, max_length, mode):
    full = whole(tokenizer, texts)
    found = tokenize(tokenizer, texts, max_length, mode)
    assert found.texts == len(texts)
    assert found.text_of.tolist() == sorted(found.text_of.tolist())
    assert found.lengths.max() <= max_length
    for row in range(len(found)):
        of = full[found.text_of[row]]
        assert (found[row][0], found[row][-1]) == (of[0], of[-1])
        if len(of) <= max_length:
            assert found[row].tolist() == of.tolist()
    assert found.cut.longer == sum(len(ids) > max_length for ids in full)
    assert found.cut.tokens == sum(map(len, full))
    if mode != WINDOW_MEAN:
        assert found.cut.lost == found.cut.tokens - found.lengths.sum()
    np.testing.assert_allclose(np.bincount(found.text_of, found.shares), 1)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=12), modes, st.data())
def test_taking_texts_takes_all_their_rows(lengths, mode, data):
    rng = np.random.default_rng(0)
    tokens = fit([rng.integers(5, 90, n) for n in lengths], Frame(1, 1), 12, mode)
    some = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=12))
    part = tokens.take(some)
    assert part.texts == len(some)
    for place, text in enumerate(some):
        ours = [part[row].tolist() for row in np.flatnonzero(part.text_of == place)]
        assert ours == [tokens[row].tolist() for row in np.flatnonzero(tokens.text_of == text)]


def test_mean_is_over_a_texts_rows():
    tokens = fit([np.arange(n) for n in (3, 30, 5)], Frame(1, 1), 12, WINDOW_MEAN)
    rows = np.random.default_rng(0).normal(size=(len(tokens), 4)).astype(np.float32)
    expected = [rows[tokens.text_of == text].mean(0) for text in range(3)]
    assert len(tokens) > 3
    np.testing.assert_allclose(tokens.mean(rows), expected, rtol=1e-6)


# --------------------------------------------------------------------------------------------------------- what is said


def test_the_share_that_is_cut_is_always_said():
    nothing = Cut(TRUNCATE, 128, texts=10, tokens=200)
    assert nothing.line("test") == "no test text is cut at 128 tokens"
    some = nothing + Cut(TRUNCATE, 128, texts=30, longer=4, tokens=800, lost=50)
    assert some.line("train") == "4 of 40 train texts (10.0 %) are cut at 128 tokens; 5.0 % of all tokens are lost"
    middle = replace(some, mode=HEAD_TAIL).line()
    assert middle == "4 of 40 texts (10.0 %) are cut in the middle to 128 tokens; 5.0 % of all tokens are lost"
    windows = replace(some, mode=WINDOW_MEAN, lost=0, windows=9).line()
    assert windows == "4 of 40 texts (10.0 %) are longer than 128 tokens and read in 9 windows; none is cut"


# ---------------------------------------------------------------------------------------------------------- prediction


@pytest.fixture(scope="module")
def predictors(trained, tiny_base):
    """One adapter, told to read long texts in each of the ways."""
    one = predict.load(trained("roberta"), base_weights=str(tiny_base("roberta")), precision="fp32")
    return {mode: replace(one, settings=replace(one.settings, long_text=mode)) for mode in MODES}


def test_texts_that_fit_get_the_same_tokens_and_logits_in_every_mode(predictors, texts):
    short = [text[:30] for text in texts[:12]]
    assert predictors[TRUNCATE].tokens(short).cut.longer == 0
    logits = [predictors[mode].predict_logits(short) for mode in MODES]
    for other in logits[1:]:
        np.testing.assert_array_equal(logits[0], other)


@pytest.mark.parametrize("mode", MODES)
def test_order_count_and_company_change_nothing(predictors, texts, mode):
    some = [text[: 30 + 300 * (i % 3)] for i, text in enumerate(texts[:12])]
    predictor = predictors[mode]
    together = predictor.predict_logits(some)
    assert together.shape == (12, 4)
    assert 2 < predictor.tokens(some).cut.longer < 10
    alone = np.concatenate([predictor.predict_logits([text]) for text in some])  # in batches of other widths
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(predictor.predict_logits(some[::-1]), together[::-1], atol=1e-5)


def test_modes_differ_on_long_texts(predictors, texts):
    long = [" ".join(texts[:9])]
    one, two, three = (predictors[mode].predict_logits(long) for mode in MODES)
    assert min(np.abs(one - two).max(), np.abs(two - three).max(), np.abs(one - three).max()) > 1e-4


def test_a_mean_of_windows_is_the_mean_of_their_logits(predictors, texts):
    predictor = predictors[WINDOW_MEAN]
    tokens = predictor.tokens([" ".join(texts[:9])])
    rows = replace(tokens, text_of=np.arange(len(tokens)))  # each window as a text of its own
    expected = predictor.predict_logits(rows).mean(0, keepdims=True)
    np.testing.assert_allclose(predictor.predict_logits(tokens), expected, atol=1e-6)


def test_an_adapter_from_before_there_was_a_choice_truncates(trained, tmp_path):
    settings = json.loads((trained("bert") / "adapter" / "textlora.json").read_text())
    del settings["long_text"]
    (tmp_path / "textlora.json").write_text(json.dumps(settings))
    assert AdapterSettings.read(tmp_path).long_text == TRUNCATE


# ------------------------------------------------------------------------------------------------------------ training


def test_a_texts_windows_weigh_one_together():
    """Many windows of one text count what one row of a short text counts."""
    tokens = fit([np.arange(30), np.arange(6)], Frame(1, 1), 12, WINDOW_MEAN)
    rows = Rows(tokens, np.array([1, 0]))
    batch = Collator(0)([rows[i] for i in range(len(rows))])
    assert batch["labels"].tolist() == [1] * (len(rows) - 1) + [0]
    logits = torch.tensor([[0.3, -0.2]]).repeat(len(rows), 1)
    output = type("Output", (), {"logits": logits})
    ours = step_loss(2.0)(output, batch["labels"], shares_B=batch["shares"])
    plain = type("Output", (), {"logits": logits[:2]})
    assert ours.item() == pytest.approx(step_loss(2.0)(plain, torch.tensor([1, 0])).item())


def test_rows_of_texts_that_fit_carry_no_shares():
    assert set(Rows(tokens_of(np.random.default_rng(0), [3, 4]), np.array([0, 1]))[0]) == {"input_ids", "labels"}


@pytest.mark.slow
@pytest.mark.parametrize("batching", [{}, {"per_device_train_batch_size": 8}])
def test_a_run_with_windows_trains_saves_and_predicts_the_same(tiny_config, tiny_base, tmp_path, batching):
    said: list[str] = []
    config = tiny_config("bert", long_text=WINDOW_MEAN, max_length=16, max_steps=4, eval_steps=2, **batching)
    run = train(config, out=tmp_path / "run", say=said.append)
    for split in ("train", "validation"):
        assert any(f" {split} texts " in line and " windows; none is cut" in line for line in said)
    loading = {"base_weights": str(tiny_base("bert")), "precision": "fp32"}  # as it trained: ties may fall otherwise
    predictor = predict.load(run.folder, **loading)
    assert (predictor.settings.long_text, predictor.settings.max_length) == (WINDOW_MEAN, 16)
    report = evaluate(run.folder, "mini-news", "validation", say=said.append, **loading)
    assert report.scores.accuracy == run.summary()["best_validation_accuracy"]
    assert report.cut.longer > 0
    assert said[-1] == report.cut.line("validation")
    assert report.to_dict()["long_texts"]["windows"] > report.cut.longer


@pytest.mark.slow
def test_without_long_texts_every_mode_trains_the_same(tiny_config, tmp_path):
    """Bit for bit: the windows' weights are no part of a run that has no windows."""
    losses = []
    for mode in MODES:
        run = train(tiny_config("bert", long_text=mode, max_length=128, max_steps=3), out=tmp_path / mode)
        losses.append([line["loss"] for line in run.metrics()])
    assert losses[0] == losses[1] == losses[2]


def test_predict_says_what_was_cut(trained, tiny_base, tmp_path):
    predictor = predict.load(trained("bert"), base_weights=str(tiny_base("bert")))
    file, said = tmp_path / "in.txt", []
    file.write_text("short\n" + "word " * 200 + "\n")
    predict.predict_file(predictor, str(file), tmp_path / "out.csv", say=said.append)
    assert said[0].startswith("1 of 2 texts (50.0 %) are cut at 48 tokens; ")
    file.write_text("short\n")
    predict.predict_file(predictor, str(file), tmp_path / "out2.csv", say=said.append)
    assert said[1] == "no text is cut at 48 tokens"


# --------------------------------------------------------------------------------------------- which mode finds what


def document(sentence: str, place: str, filler: list[str], rng: np.random.Generator) -> str:
    """A long text of `filler` sentences with the one that decides at its head, middle or tail."""
    sentences = [filler[i] for i in rng.integers(0, len(filler), 8)]
    sentences.insert({"head": 0, "middle": 4, "tail": 8}[place], sentence)
    return " ".join(sentences)


def kept(place: str, mode: str, tokenizer, max_length: int = 48) -> float:
    """Share of documents in which the deciding sentence's tokens reach the model."""
    rng = np.random.default_rng(0)
    filler = [row["text"] for row in corpus_rows("train")[:50]]
    mark = "zebra zebra zebra"
    needle = tokenizer(mark, add_special_tokens=False)["input_ids"]
    documents = [document(mark, place, filler, rng) for _ in range(20)]
    tokens = tokenize(tokenizer, documents, max_length, mode)
    seen = [_holds(tokens[row].tolist(), needle) for row in range(len(tokens))]
    return float(np.mean([any(np.array(seen)[tokens.text_of == text]) for text in range(20)]))


def _holds(row: list[int], needle: list[int]) -> bool:
    return any(row[i : i + len(needle)] == needle for i in range(len(row)))


@pytest.mark.parametrize(
    ("place", "finds"),
    [("head", set(MODES)), ("tail", {HEAD_TAIL, WINDOW_MEAN}), ("middle", {WINDOW_MEAN})],
)
def test_which_mode_sees_the_sentence_that_decides(tiny_base, place, finds):
    tokenizer = load_tokenizer(tiny_base("bert"))
    assert {mode for mode in MODES if kept(place, mode, tokenizer, max_length=96) == 1} == finds
    assert all(kept(place, mode, tokenizer, max_length=96) == 0 for mode in set(MODES) - finds)


def test_the_frame_of_each_familys_tokenizer(tiny_base):
    assert {frame(load_tokenizer(tiny_base(family))) for family in ("bert", "roberta", "distilbert")} == {Frame(1, 1)}
