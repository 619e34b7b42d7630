"""What is odd about texts and labels that can be trained on all the same: counted, said, with what is done about it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

EXAMPLES = 3
EXCEL_CELL = 32_767  # characters that a cell of Excel holds; a longer text ends there
EXCEL_ERRORS = {"#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#N/A", "#NULL!", "#NUM!"}  # a text that began with =, + or -
MISSING = {"nan", "null", "none", "n/a", "#n/a", "<na>", "nil", "undefined", "-", "--", "?"}
HTML_SHARE = 0.01  # of the texts: below, a stray < or & is nobody's markup
NEARLY_ALL = 0.9
ENOUGH = 20  # rows below which a share says nothing

_HTML = re.compile(r"</?[a-z][a-z0-9]*(?:\s[^<>]*)?/?>|&(?:#\d+|[a-z]+\d*);", re.IGNORECASE)
_MOJIBAKE = re.compile("[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac|\ufffd")  # UTF-8 that was read as Windows-1252
_NUMBERS = re.compile(r"[\d\s.,:;/+\-%()TZ$\u20ac]+")
_WHOLE = re.compile(r"-?\d+", re.ASCII)


@dataclass(frozen=True)
class Finding:
    """Something in the data that a person should know: how often, in words, and what textlora does about it."""

    kind: str  # for programs
    count: int
    message: str
    action: str
    examples: tuple[str, ...] = ()
    stops: bool = False  # nothing is trained before it is mended

    @property
    def line(self) -> str:
        return f"{self.message}: {self.action}"


def of_texts(texts: Sequence[str], labels: Sequence[str]) -> list[Finding]:
    """What is odd about `texts` (N), whose labels are `labels` (N) by name."""
    found = [
        _odd("html", texts, _has_html, "hold HTML tags or entities", "kept; --cleaning entities takes them out"),
        _odd("mojibake", texts, _is_mojibake, "look decoded wrongly before", "kept; export them anew as UTF-8"),
        _odd(
            "excel_error", texts, _is_excel_error, "are an error of Excel", "kept; correct the sheet and export again"
        ),
        _odd("excel_cut", texts, _is_excel_cut, f"end at {EXCEL_CELL:,} characters, as Excel cuts them", "kept"),
        _odd("missing_text", texts, _is_missing, "read like a missing one", "kept; remove the rows if they are"),
        _odd("numbers", texts, _is_number, "are a number or a date", "kept; is this the text column?"),
    ]
    shares = {"html": HTML_SHARE, "numbers": NEARLY_ALL}
    kept = [finding for finding in found if finding.count > shares.get(finding.kind, 0) * len(texts)]
    return [*kept, *_label_in_text(texts, labels)]


def of_labels(cells: Sequence[Any]) -> list[Finding]:
    """What is odd about labels as their file has them."""
    found = []
    blanks = [cell for cell in cells if isinstance(cell, str) and cell != cell.strip()]
    if blanks:
        message = f"{_labels(len(blanks))} blanks around {'it' if len(blanks) == 1 else 'them'}"
        found.append(Finding("label_blanks", len(blanks), message, "removed", _some(map(repr, blanks))))
    kinds = Counter(map(_kind, cells))
    if len(kinds) > 1:
        listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        action = 'each is taken as it is written, and 1 and "1" are one label'
        found.append(Finding("label_kinds", min(kinds.values()), f"labels are of several kinds ({listed})", action))
    missing = [str(cell) for cell in cells if str(cell).strip().casefold() in MISSING]
    if missing:
        message = f"{_labels(len(missing))} a name that reads like a missing one ({', '.join(sorted(set(missing)))})"
        found.append(Finding("missing_label", len(missing), message, "taken for a class of its own"))
    return found


def _label_in_text(texts: Sequence[str], labels: Sequence[str]) -> list[Finding]:
    """Whether nearly every text holds its own label's name: a machine's doing, and scores to be distrusted."""
    words = {name: re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE) for name in set(labels) if _is_word(name)}
    if len(texts) < ENOUGH or len(words) < len(set(labels)):
        return []
    held = [text for text, label in zip(texts, labels, strict=True) if words[label].search(text)]
    if len(held) < NEARLY_ALL * len(texts):
        return []
    message = f"{len(held):,} of {len(texts):,} texts hold their own label's name"
    action = "kept, but scores will be too good if it isn't there in new texts"
    return [Finding("label_in_text", len(held), message, action, _some(map(short, held)))]


def short(text: str, limit: int = 60) -> str:
    """A text on one line."""
    line = " ".join(text[: 4 * limit].split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _odd(kind: str, texts: Sequence[str], is_odd: Any, what: str, action: str) -> Finding:
    odd = [text for text in texts if is_odd(text)]
    return Finding(kind, len(odd), f"{len(odd):,} of {len(texts):,} texts {what}", action, _some(map(short, odd)))


def _has_html(text: str) -> bool:
    return ("<" in text or "&" in text) and _HTML.search(text) is not None


def _is_mojibake(text: str) -> bool:
    return not text.isascii() and _MOJIBAKE.search(text) is not None


def _is_excel_error(text: str) -> bool:
    return text.strip() in EXCEL_ERRORS


def _is_excel_cut(text: str) -> bool:
    return len(text) == EXCEL_CELL


def _is_missing(text: str) -> bool:
    return len(text) < 20 and text.strip().casefold() in MISSING


def _is_number(text: str) -> bool:
    return len(text) < 60 and _NUMBERS.fullmatch(text) is not None


def _is_word(label: str) -> bool:
    return len(label) > 2 and any(c.isalpha() for c in label)


def _kind(cell: object) -> str:
    if isinstance(cell, bool):
        return "true or false"
    if isinstance(cell, int):
        return "numbers"
    return "numbers as text" if _WHOLE.fullmatch(str(cell).strip()) else "words"


def _labels(count: int) -> str:
    return "1 label has" if count == 1 else f"{count:,} labels have"


def _some(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(islice(dict.fromkeys(items), EXAMPLES))
