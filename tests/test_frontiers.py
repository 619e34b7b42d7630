"""The pages of the frontiers and of the seeds' claims say what the benchmarks kept: no figure is written by hand."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_the_page_and_its_picture_come_from_what_was_kept(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import frontier_page

    page, picture = tmp_path / "frontiers.md", tmp_path / "frontiers.png"
    monkeypatch.setattr(sys, "argv", ["frontier_page.py", "--page", str(page), "--picture", str(picture)])
    frontier_page.main()
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "frontiers.md").read_text(encoding="utf-8")
    assert picture.stat().st_size > 10_000


def test_the_seeds_claims_come_from_what_was_kept(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import seed_claims

    found = seed_claims.verdicts(seed_claims.read_kept(ROOT / "benchmarks/kept/seed_claims.jsonl", 5000), 5)
    assert seed_claims.page(found, 5000, 5) == (ROOT / "docs" / "seed-findings.md").read_text(encoding="utf-8")
