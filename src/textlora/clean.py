"""Cleaning steps with names: pure functions from text to text, applied alike in training and prediction.

The marks are those of AG's corpus of news articles (Zhang et al., arXiv 1509.01626), where `&` had become a blank
before the texts were published: `Kobe&#39;s` reads `Kobe #39;s`, and a line break reads as a backslash.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable
from html.entities import html5

from textlora.errors import UsageError, closest

# Without the `&` only these are taken for entities: the others are English words (` cent;` ` times;` ` image;`), and a
# small number may be a rank or a shirt (`he is #10; she ...`). The list is what AG's 120,000 rows hold.
BROKEN_NAMES = "quot|amp|lt|gt|nbsp|apos|hellip|[lr][sd]quo|[mn]dash|[aeiou](?:acute|grave|uml|circ)|[nao]tilde|ccedil"
BROKEN_CODES = r"0*(?:34|36|38|39|60|62|1[3-9]\d|12[89]|2[0-4]\d|25[0-5]|8[2-4]\d\d|6425[6-9])"

_ENTITY = re.compile(r"&(?P<code>#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_BROKEN = re.compile(rf"(?:^| )(?P<code>#{BROKEN_CODES}|{BROKEN_NAMES});", re.ASCII)
# Only HTML's own names, so that a ticker in angle brackets (<TXN.N>) stays.
_BREAKING = "br|p|div|li|ul|ol|hr|td|th|tr|table|tbody|h[1-6]|blockquote|pre"
_INLINE = "a|abbr|b|big|center|cite|code|em|font|i|img|q|s|small|span|strike|strong|sub|sup|tt|u"
_BREAKING_TAG = re.compile(rf"</?(?:{_BREAKING})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_ESCAPED_DOLLAR = re.compile(r"\\+(?=\$)")
_BACKSLASHES = re.compile(r"\\+")

# Controls that aren't white space, soft hyphen, zero-width space, word joiner, byte order mark. The zero-width joiners
# U+200C and U+200D stay: Persian, Indic scripts and emoji are spelt with them.
_INVISIBLE = {c: None for c in (*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0x2060, 0xFEFF) if not chr(c).isspace()}


def entities(text: str) -> str:
    """HTML entities, whole (`&amp;`) or broken (` #39;`, ` quot;`), become their characters; HTML tags go.

    The blank of a broken entity was its `&`, so it goes too: `Kobe #39;s` is `Kobe's`, `said  quot;no` is `said "no`.
    """
    if ";" in text:
        text = _ENTITY.sub(_character, text)
        text = _BROKEN.sub(_character, text)
    if "<" in text:
        text = _BREAKING_TAG.sub(" ", text)
        text = _INLINE_TAG.sub("", text)
    return text


def backslashes(text: str) -> str:
    r"""`\$` becomes `$`; other backslashes, AG's line breaks, become a blank."""
    if "\\" not in text:
        return text
    return _BACKSLASHES.sub(" ", _ESCAPED_DOLLAR.sub("", text))


def whitespace(text: str) -> str:
    """One blank between words, none around them; control characters and zero-width spaces go."""
    return " ".join(text.translate(_INVISIBLE).split())


STEPS: dict[str, Callable[[str], str]] = {
    "entities": entities,
    "backslashes": backslashes,
    "whitespace": whitespace,
}


def check_steps(names: Iterable[str]) -> None:
    """Raises UsageError for a name that is no step."""
    for name in names:
        if name not in STEPS:
            raise UsageError(f"there is no cleaning step {name!r}", closest(name, STEPS))


def clean(text: str, steps: Iterable[str]) -> str:
    """`text` after the named steps, in the registry's order, repeated until nothing changes.

    Repeating makes it idempotent (a step may uncover another's mark: `&amp;lt;b&amp;gt;`); it ends because every change
    makes the text shorter or replaces a backslash or odd white space for good.
    """
    chosen = set(steps)
    check_steps(chosen)
    functions = [step for name, step in STEPS.items() if name in chosen]
    before = None
    while text != before:
        before = text
        for step in functions:
            text = step(text)
    return text


def _character(match: re.Match[str]) -> str:
    code = match["code"]
    if code.startswith("#"):
        return html.unescape(f"&{code};")  # 128-159 are read as Windows-1252, as browsers do
    return html5.get(f"{code};", match[0])
