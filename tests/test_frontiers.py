"""The frontiers' page says what the benchmarks kept: no figure of it is written by hand."""

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
