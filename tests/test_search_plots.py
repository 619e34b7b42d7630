"""A search's pictures, from what search.json holds."""

from __future__ import annotations

import pytest

from textlora.search_plots import search_plots


def found(trials: int, against: str = "") -> dict:
    rows = [
        {
            "number": k,
            "ended": "pruned" if k % 3 == 2 else "finished",
            "accuracy": 0.9 + k / 1000,
            "loss": 0.3,
            "parameters": 100_000 * (k + 1),
            "seconds": 10.0,
            "texts": 400,
            "params": {"learning_rate": 1e-4 * (k + 1), "head": "linear" if k % 2 else "full", "weight_decay": 0.0},
            "curve": [[100, 0.5], [200, 0.8]] if k else [],
        }
        for k in range(trials)
    ]
    scored = [row for row in rows if row["ended"] == "finished"]
    domains = {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "head": {"choices": ["linear", "low-rank", "full"]},
        "weight_decay": {"low": 0.0, "high": 0.1, "log": False},
    }
    return {
        "objective": "accuracy",
        "against": against,
        "trials": rows,
        "best": scored[-1],
        "front": [row["number"] for row in scored] if against else [],
        "importances": {"learning_rate": 0.7, "head": 0.2, "weight_decay": 0.1} if trials > 4 else {},
        "domains": domains,
    }


@pytest.mark.parametrize(
    ("trials", "against", "names"),
    [
        (1, "", ["history", "slices", "parallel"]),
        (7, "", ["history", "curves", "importances", "slices", "parallel"]),
        (7, "parameters", ["history", "curves", "importances", "slices", "parallel", "pareto"]),
    ],
)
def test_which_pictures_there_are_and_that_equal_searches_give_equal_bytes(tmp_path, trials, against, names):
    written = search_plots(found(trials, against), tmp_path / "a")
    assert [path.stem for path in written] == names
    again = search_plots(found(trials, against), tmp_path / "b")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]
