"""What rounding flips is found without predicting all rows twice, and counted as it is."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from textlora import flips
from textlora.evaluate import evaluate
from textlora.tables import report_table


def compared(fast: np.ndarray, exact: np.ndarray) -> tuple[flips.Flips, list[int]]:
    asked: list[int] = []

    def reference(rows: np.ndarray) -> np.ndarray:
        asked.extend(rows.tolist())
        return exact[rows]

    return flips.find(fast, reference), asked


@given(
    seed=st.integers(0, 99), n=st.integers(1, 900), c=st.integers(2, 6), rounding=st.sampled_from([0.0, 0.01, 0.3, 3.0])
)
def test_it_finds_what_comparing_all_rows_finds(seed: int, n: int, c: int, rounding: float) -> None:
    rng = np.random.default_rng(seed)
    exact = rng.normal(size=(n, c)) * 3
    fast = exact + rng.choice([-rounding, rounding], (n, c))
    found, asked = compared(fast, exact)
    differ = np.flatnonzero(fast.argmax(1) != exact.argmax(1))
    assert found.n == len(differ) == len(found.margins)
    assert set(differ) <= set(asked)
    assert len(set(asked)) == len(asked) == found.checked <= found.rows == n
    assert found.share == found.n / n
    assert found.moved <= 2 * rounding + 1e-9
    assert all(0 <= margin <= found.moved for margin in found.margins)


def test_far_from_a_tie_nothing_is_compared_twice() -> None:
    exact = np.eye(4)[np.arange(2000) % 4] * 10
    found, asked = compared(exact + 0.01, exact)
    assert (found.n, len(asked)) == (0, flips.STEP)


def test_no_rows_no_flips() -> None:
    assert compared(np.zeros((0, 3)), np.zeros((0, 3)))[0] == flips.Flips(0, 0, 0, 0.0, [], 0.0)


def test_the_report_says_what_rounding_flipped(trained, tiny_base, tmp_path) -> None:
    base = str(tiny_base("bert"))
    report = evaluate(trained("bert"), "mini-news", "test", out=tmp_path, base_weights=base, precision="bf16").to_dict()
    found = report["flips"]
    assert found["rows"] == 200
    assert 0 < found["checked"] <= 200
    assert 0 < found["moved"] < 0.5
    assert json.loads((tmp_path / "evaluation" / "report.json").read_text())["splits"]["test"]["flips"] == found
    assert f"{found['n']} of 200 labels differ from --precise" in report_table(report)
    for how in ({"precise": True}, {"precision": "fp32"}):
        exact = evaluate(trained("bert"), "mini-news", "test", out=tmp_path, base_weights=base, **how).to_dict()
        assert exact["flips"] is None
        assert "--precise" not in report_table(exact)
