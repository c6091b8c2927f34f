from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_jax.tasks.arithmetic import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_LENGTH,
    Negation,
    NotArithmeticError,
    Number,
    Operation,
    canonical,
    leaves,
    parse,
    value,
)

expressions = st.recursive(
    st.integers(0, 99).map(Number),
    lambda inner: st.one_of(
        st.builds(Negation, inner), st.builds(Operation, inner, st.sampled_from("+-*/"), inner)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("8-3-2", 3),
        ("8/4/2", 1),
        ("8-(3-2)", 7),
        ("-3+5", 2),
        ("2*-3", -6),
        ("--3", 3),
        ("-(1+2)*3", -9),
        ("1/3+1/6", Fraction(1, 2)),
        (" 4\t/\n6 ", Fraction(2, 3)),
        ("8/(3-8/3)", 24),
        ("0", 0),
    ],
)
def test_precedence_grouping_and_signs_are_those_of_arithmetic(text, expected):
    assert value(parse(text)) == expected


@pytest.mark.parametrize("text", ["1/0", "1/(2-2)", "0/0", "3*(1/(5-5))", "-(1/0)+2"])
def test_division_by_zero_has_no_value(text):
    assert value(parse(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "()",
        "1 2",
        "1+",
        "*1",
        "+1",
        "1++2",
        "(1",
        "1)",
        "1)(2",
        "2**3",
        "7//2",
        "1.5",
        "07",
        "00",
        "1e3",
        "3=3",
        "x",
        "2(3)",
        "(2)3",
        "1,000",
        "3×5",
        "٣+٥",  # Arabic digits
        "³",
        "1\x00",
        "1\u00a0+2",
        "1_0",
        "__import__('os')",
        "\ud800",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(NotArithmeticError):
        parse(text)


def test_length_digits_and_depth_are_bounded():
    at_limit = ["1" + " " * (MAX_LENGTH - 1), "9" * MAX_DIGITS, "(" * MAX_DEPTH + "1" + ")" * 32]
    for text in at_limit:
        assert value(parse(text)) is not None
    past_limit = [at_limit[0] + " ", at_limit[1] + "9", f"({at_limit[2]})", "-" * 33 + "1"]
    for text in past_limit:
        with pytest.raises(NotArithmeticError):
            parse(text)


def test_a_long_chain_is_not_deep():
    assert value(parse("1+" * 127 + "1")) == 128
    assert value(parse("2*" * 127 + "1")) == 2**127


def test_leaves_come_in_reading_order():
    assert list(leaves(parse("4*(3-1)/-20+3"))) == [4, 3, 1, 20, 3]


@settings(max_examples=200, derandomize=True, deadline=None)
@given(expressions)
def test_text_of_an_expression_parses_back_to_it(expression):
    assert parse(str(expression)) == expression


@settings(max_examples=200, derandomize=True, deadline=None)
@given(expressions)
def test_value_is_what_fractions_give(expression):
    def fraction(part):
        match part:
            case Number(number):
                return f"Fraction({number})"
            case Negation(operand):
                return f"(-{fraction(operand)})"
            case Operation(left, symbol, right):
                return f"({fraction(left)}{symbol}{fraction(right)})"

    try:
        expected = eval(fraction(expression), {"Fraction": Fraction})
    except ZeroDivisionError:
        expected = None
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("3+5+8", "8 + (5+3)"),
        ("8-(3-5)", "5-3+8"),
        ("2*(3+4)/7", "(4+3)*2/7"),
        ("8/(2/3)", "3*8/2"),
        ("-(3-5)", "5-3"),
    ],
)
def test_order_and_grouping_do_not_change_the_canonical_form(first, second):
    assert canonical(parse(first)) == canonical(parse(second))


@pytest.mark.parametrize(
    ("first", "second"), [("1+1", "2"), ("6*2", "6+6"), ("8-5", "5-8"), ("2*3+4", "2*(3+4)")]
)
def test_different_computations_have_different_canonical_forms(first, second):
    assert canonical(parse(first)) != canonical(parse(second))
