"""mini-news: 1,000 short news items in four classes, written for this project (README.md; CC0)."""

from pathlib import Path

FOLDER = Path(__file__).parent
