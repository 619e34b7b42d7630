"""The pictures: which files, of which size, equal for equal input, and for every shape of run and labels."""

import math
import struct
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textlora import metrics, plots

FOUR = ["loss.png", "accuracy.png", "precision_recall_f1.png", "learning_rate_dropout.png"]


def records(points: int = 5, *, dropout: float | None = 0.1, n: bool = True) -> list[dict]:
    """Lines of metrics.jsonl: two training lines and two evaluation lines a point."""
    found = []
    for k in range(1, points + 1):
        for step in (20 * k - 10, 20 * k):
            line = {"step": step, "epoch": step / 50, "split": "train", "loss": 1.4 / k, "learning_rate": 1e-3 / k}
            found.append(line | ({} if dropout is None else {"dropout": dropout / k}))
        for split, rows in (("validation", 2000), ("train_sample", 500)):
            line = {"step": 20 * k, "epoch": k / 2.5, "split": split, "loss": 1.3 / k, "accuracy": 0.9 - 0.3 / k}
            line |= {"precision": 0.9 - 0.29 / k, "recall": 0.9 - 0.3 / k, "f1": 0.9 - 0.31 / k}
            found.append(line | ({"n": rows} if n else {}))
    return found


def scores(names: list[str], n: int = 300) -> dict:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(names), n)
    p = rng.dirichlet([0.5] * len(names), n) + 2 * np.eye(len(names))[labels]
    return metrics.score(labels, p / p.sum(1, keepdims=True), names).to_dict()


def size(path: Path) -> tuple[int, int]:
    """Width and height from the header of a PNG file."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


# ---------------------------------------------------------------------------------------------------------- training


def test_training_gives_four_png_files_of_even_width(tmp_path):
    written = plots.training_plots(records(), tmp_path / "new" / "folder")
    assert [path.name for path in written] == FOUR
    assert all(size(path)[0] == 1440 and 500 < size(path)[1] < 1200 for path in written)


def test_equal_records_give_equal_bytes_whatever_the_user_s_style(tmp_path):
    first = plots.training_plots(records(), tmp_path / "a")
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "savefig.transparent": True}):
        second = plots.training_plots(records(), tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(records(1), FOUR, id="one point"),
        pytest.param(records(60), FOUR, id="many points"),
        pytest.param(records(dropout=0.0), FOUR, id="dropout 0"),
        pytest.param(records(dropout=None), FOUR, id="no dropout logged"),
        pytest.param(records(n=False), FOUR, id="sizes unknown"),
        pytest.param([r for r in records() if r["split"] == "train"], [FOUR[0], FOUR[3]], id="never evaluated"),
        pytest.param([r for r in records() if r["split"] != "train"], FOUR[:3], id="never logged"),
        pytest.param([r | {"loss": math.nan} for r in records()], FOUR[1:], id="loss never finite"),
        pytest.param([r | {"loss": None} for r in records()], FOUR[1:], id="loss null"),
        pytest.param([r | {"loss": math.nan if r["step"] > 50 else 1.0} for r in records()], FOUR, id="diverged"),
        pytest.param([r | {"learning_rate": 0.0} for r in records()], FOUR, id="rate 0"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_every_course_of_training_can_be_drawn(lines, expected, tmp_path):
    assert [path.name for path in plots.training_plots(lines, tmp_path)] == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)


@settings(max_examples=50, deadline=None)
@given(heights=st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_names_at_the_ends_keep_their_order_and_their_distance(heights):
    placed = np.array(plots._apart(heights, gap=0.1))
    order = np.argsort(heights, kind="stable")
    assert (np.diff(placed[order]) >= 0.1 - 1e-9).all()
    if (np.diff(np.sort(heights)) >= 0.1).all():
        np.testing.assert_allclose(placed, heights, atol=1e-9)


# -------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["ham", "spam"], id="two"),
        pytest.param(["World", "Sports", "Business", "Sci/Tech"], id="four"),
        pytest.param([f"intent {k}" for k in range(30)], id="thirty"),
        pytest.param([f"intent {k}" for k in range(151)], id="more than can be named"),
        pytest.param([f"{'a very long name ' * 12}{k}" for k in range(6)], id="long names"),
        pytest.param(["政治", "हिन्दी", "Спорт", "😀", "عربي"], id="scripts without a glyph"),
        pytest.param(["$x_1", "a\nb\tc", "50 % & <b>", "\x07bell", " "], id="odd characters"),
    ],
)
def test_every_set_of_labels_can_be_drawn(names, tmp_path):
    written = plots.evaluation_plots(scores(names), "test", tmp_path)
    four = ("confusion_matrix", "prediction_distribution", "reliability", "risk_coverage")
    assert [path.name for path in written] == [f"{name}_test.png" for name in four]
    assert all(size(path)[0] == 1440 and 400 < size(path)[1] < 3200 for path in written)


def test_a_label_without_a_row_is_drawn(tmp_path):
    one_only = metrics.score([0, 0], [[1.0, 0.0]] * 2, ["ham", "spam"]).to_dict()
    assert len(plots.evaluation_plots(one_only, "validation", tmp_path)) == 4


def test_one_row_right_or_wrong_is_drawn(tmp_path):
    for label in (0, 1):
        one = metrics.score([label], [[0.7, 0.3]], ["ham", "spam"]).to_dict()
        assert len(plots.evaluation_plots(one, "test", tmp_path)) == 4


def test_the_split_is_in_the_file_s_name_so_that_splits_cannot_be_mixed_up(tmp_path):
    for split in ("validation", "test"):
        plots.evaluation_plots(scores(["ham", "spam"]), split, tmp_path)
    assert len(list(tmp_path.iterdir())) == 8


def test_equal_scores_give_equal_bytes(tmp_path):
    first, second = (plots.evaluation_plots(scores(["ham", "spam"]), "test", tmp_path / d) for d in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_names_stay_apart_when_cut_or_boxed():
    drawn, fonts = plots._drawable(["complaint about the delivery of goods", "complaint about the delivery of food"])
    assert drawn == ["complaint abo…ery of goods", "complaint abo…very of food"]
    assert fonts == [plots.FONT]
    unknown = "\U0010fffd"  # the last private character: no font has it
    assert plots._drawable([unknown, unknown * 2, "x"])[0] == ["0: □", "1: □□", "x"]
    cut_alike = plots._drawable([f"{'a' * 20}{middle}{'b' * 20}" for middle in "xy"])[0]
    assert len(set(cut_alike)) == 2


def test_a_font_file_that_went_away_is_no_obstacle(tmp_path):
    assert plots._characters(str(tmp_path / "gone.ttf")) == frozenset()


# ------------------------------------------------------------------------------------------------------------ import


def test_neither_the_package_nor_its_pictures_import_pyplot():
    code = "import sys, textlora; assert 'matplotlib' not in sys.modules; import textlora.plots; "
    code += "assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
