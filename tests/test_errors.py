"""Errors: one exit code each, caught as the builtin they refine, and the nearest known name for a misspelt one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textlora.errors import (
    BudgetError,
    DamagedError,
    DataError,
    GateError,
    ResourceError,
    TextLoraError,
    UsageError,
    closest,
)

CONTRACT = [
    (TextLoraError, 1, "error", Exception),
    (UsageError, 2, "usage", ValueError),
    (DataError, 3, "data", ValueError),
    (BudgetError, 4, "budget", ValueError),
    (GateError, 5, "gate", RuntimeError),
    (DamagedError, 6, "damaged", ValueError),
    (ResourceError, 7, "resource", OSError),
]
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


def family(kind: type[TextLoraError]) -> list[type[TextLoraError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in family(child))]


@pytest.mark.parametrize(("kind", "code", "word", "builtin"), CONTRACT)
def test_an_error_has_its_code_and_is_the_builtin_it_refines(kind, code, word, builtin):
    error = kind("a is b", "make it c")
    assert (error.code, error.kind) == (code, word)
    assert isinstance(error, builtin)
    assert isinstance(error, TextLoraError)


def test_every_error_is_in_the_contract_with_a_code_of_its_own():
    kinds = [kind for kind in family(TextLoraError) if kind.__module__ == "textlora.errors"]
    assert {kind for kind, *_ in CONTRACT} == set(kinds)
    assert len({kind.code for kind in kinds}) == len({kind.kind for kind in kinds}) == len(kinds)
    assert not {kind.code for kind in kinds} & {0, 130}


@pytest.mark.parametrize("kind", [kind for kind, *_ in CONTRACT])
@given(message=names, fix=names)
def test_an_error_reads_as_what_is_wrong_and_what_to_do(kind, message, fix):
    assert str(kind(message, fix)) == f"{message}; {fix}"
    assert str(kind(message)) == message
    assert (kind(message, fix).message, kind(message, fix).fix) == (message, fix)


@given(st.lists(names, min_size=1, max_size=8))
def test_a_known_name_is_its_own_closest(known):
    assert closest(known[0], known).startswith("did you mean ")
    assert known[0] in closest(known[0], known)


@given(names, st.lists(names, max_size=8))
def test_closest_only_ever_offers_what_is_known(name, known):
    answer = closest(name, iter(known))
    if not known:
        assert answer == "there is none"
    elif answer.startswith("did you mean "):
        assert any(answer.startswith(f"did you mean {offered}") for offered in known)
    else:
        assert answer == f"known: {', '.join(known)}"


def test_closest_names_the_nearest_first_and_at_most_three():
    assert closest("roberta-qv", ["minilm", "roberta-qv-r10", "roberta-selective-r36"]).startswith(
        "did you mean roberta-qv-r10"
    )
    assert closest("lora", ["lora_r", "lora_a", "lora_b", "lora_c"]).count(" or ") == 2
