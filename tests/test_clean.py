"""clean.py: idempotent steps that leave plain text alone; the examples are made up in AG's manner."""

from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textlora.clean import STEPS, check_steps, clean
from textlora.errors import UsageError

STEP_SETS = list(chain.from_iterable(combinations(STEPS, n) for n in range(len(STEPS) + 1)))

# Pieces whose junctions make new marks: a step's output must not hide another's input.
MARKS = [
    " ",
    "#39;",
    "&",
    "amp;",
    "lt;",
    "gt;",
    "b",
    "<",
    ">",
    "\\",
    "$",
    "\u200b",
    "\n",
    "\t",
    " quot;",
    "&#92;",
    "#36;",
]
MARKS += ["/", "a href=x", "&lt;", "\x07", "\u00a0", "\u00ad", "br", "word"]
marked_texts = st.lists(st.sampled_from(MARKS) | st.text(max_size=3), max_size=14).map("".join)


@pytest.mark.parametrize("steps", STEP_SETS, ids="+".join)
def test_cleaning_twice_is_cleaning_once(steps):
    @settings(max_examples=50, deadline=None)
    @given(marked_texts)
    def law(text):
        once = clean(text, steps)
        assert clean(once, steps) == once

    law()


@settings(max_examples=50, deadline=None)
@given(marked_texts)
def test_cleaning_never_lengthens(text):
    assert len(clean(text, STEPS)) <= len(text)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="&;<>\\")))
def test_plain_text_is_left_alone(text):
    assert clean(text, ("entities", "backslashes")) == text


@settings(max_examples=50, deadline=None)
@given(marked_texts)
def test_white_space_step_leaves_single_blanks_between_words(text):
    assert clean(text, ("whitespace",)).split() == [w for w in clean(text, ("whitespace",)).split(" ") if w]


def test_the_order_of_names_does_not_matter():
    text = "ended at\\ #36;19 &lt;b&gt;..."
    assert clean(text, ("whitespace", "backslashes", "entities")) == clean(text, STEPS)


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("Kobe #39;s comments  #39;odd #39; today", "Kobe's comments 'odd' today"),
        ("said  quot;no comment, quot; and left", 'said "no comment," and left'),
        ("quot;First quot; word", '"First" word'),
        ("AT amp;T and Q&amp;A", "AT&T and Q&A"),
        ("worth  #36;18 billion", "worth $18 billion"),
        ("start  #151; their best", "start \u2014 their best"),
        ("caf&eacute; caf eacute;", "caf\u00e9 caf\u00e9"),
        ("&lt;b&gt;...&lt;/b&gt; A judge", "... A judge"),
        ('Google &lt;A HREF="http://x.example/q?a=b"&gt;GOOG.O&lt;/A&gt; rose', "Google GOOG.O rose"),
        ("&amp;lt;b&amp;gt;bold", "bold"),
        ("one<br>two<BR/>three", "one two three"),
    ],
)
def test_entities_become_characters(raw, wanted):
    assert clean(raw, ("entities",)) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "shares of Foo <FOO.N> and Bar <A.N>",  # tickers are no tags
        "5 < 6 and 7 > 2",
        "he is #10; she is #23; both run",  # ranks are no characters
        "fish; chips; not; times; copy; image;",  # words that are entity names too
        "R&D; and Q&A;",  # no entity has these names
        "?a=1&copy=2",  # an entity ends with a semicolon
    ],
)
def test_what_only_looks_like_an_entity_stays(text):
    assert clean(text, ("entities",)) == text


def test_backslashes_are_line_breaks_or_escapes():
    assert clean(r"paid \$5 for\it, US\$7 and\\more", ("backslashes",)) == "paid $5 for it, US$7 and more"


def test_invisible_characters_go_but_joiners_stay():
    assert clean(" a\u200bb\x00c\ufeff\t\u00a0d\u00ade\r\n", ("whitespace",)) == "abc de"
    persian = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # the zero-width non-joiner is part of the spelling
    assert clean(persian, ("whitespace",)) == persian


def test_unknown_step_names_the_closest():
    with pytest.raises(UsageError, match=r"'entitys'.*did you mean entities"):
        check_steps(["whitespace", "entitys"])
    with pytest.raises(UsageError, match="no cleaning step"):
        clean("x", ("lower",))
