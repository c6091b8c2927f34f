"""Arithmetic as text: parsed without `eval`, computed exactly.

The text comes from a language model that is rewarded for what it evaluates to, so nothing
here trusts it: length, digits and nesting are bounded before anything is computed.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple, TypeVar

MAX_LENGTH = 256  # characters
MAX_DIGITS = 18  # of one number
MAX_DEPTH = 32  # brackets and operators that wait for their right-hand side

_ALLOWED = re.compile(r"[\d\s+\-*/()]*", re.ASCII)
_TOKEN = re.compile(r"\d+|[+\-*/()]", re.ASCII)
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "**": 4}
_SIGN_PRECEDENCE = 3

Value = TypeVar("Value")


class NotArithmeticError(ValueError):
    """The text is not an expression that the grammar allows."""


class Number(NamedTuple):
    """A number as it was written."""

    value: int

    def __str__(self) -> str:
        return str(self.value)


class Negation(NamedTuple):
    """Minus one operand."""

    operand: "Expression"

    def __str__(self) -> str:
        return f"-{_bracketed(self.operand)}"


class Operation(NamedTuple):
    """Two operands joined by one of + - * /."""

    left: "Expression"
    symbol: str
    right: "Expression"

    def __str__(self) -> str:
        return f"{_bracketed(self.left)} {self.symbol} {_bracketed(self.right)}"


Expression = Number | Negation | Operation


def _bracketed(operand: Expression) -> str:
    return str(operand) if isinstance(operand, Number) else f"({operand})"


def parse(text: str) -> Expression:
    """Reads an expression of non-negative whole numbers, + - * /, unary minus and brackets.

    Raises:
        NotArithmeticError: If the text holds anything else (other digits than 0-9, a number
            with a leading zero, unary plus), or exceeds one of this file's bounds.

    >>> str(parse("(1+2)*-3"))
    '(1 + 2) * (-3)'
    """
    if len(text) > MAX_LENGTH:
        raise NotArithmeticError(f"{len(text)} characters are more than {MAX_LENGTH}")
    if not _ALLOWED.fullmatch(text):
        raise NotArithmeticError("something else than digits, + - * / and brackets")
    tokens = _TOKEN.findall(text)
    return fold(tokens, number=_number, sign=_sign, operation=Operation, depth=MAX_DEPTH)


def value(expression: Expression) -> Fraction | None:
    """What the expression evaluates to, exactly; None if it divides by zero.

    >>> value(parse("8/(3-8/3)"))
    Fraction(24, 1)
    """
    if isinstance(expression, Number):
        return Fraction(expression.value)
    if isinstance(expression, Negation):
        operand = value(expression.operand)
        return None if operand is None else -operand
    left, right = value(expression.left), value(expression.right)
    if left is None or right is None:
        return None
    match expression.symbol:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return left / right if right else None


def leaves(expression: Expression) -> Iterator[int]:
    """The numbers of the expression, from left to right."""
    for part in postorder(expression):
        if isinstance(part, Number):
            yield part.value


def postorder(expression: Expression) -> Iterator[Expression]:
    """All parts of the expression, operands before what is made of them."""
    waiting, parts = [expression], []
    while waiting:
        part = waiting.pop()
        parts.append(part)
        if isinstance(part, Negation):
            waiting.append(part.operand)
        elif isinstance(part, Operation):
            waiting += (part.left, part.right)
    return reversed(parts)


def canonical(expression: Expression) -> str:
    """One text for all expressions that differ only in spaces, order and grouping.

    >>> canonical(parse("8 - (3 - 5)")) == canonical(parse("(5+8)-3"))
    True
    """
    if isinstance(expression, Number):
        return str(expression.value)
    if isinstance(expression, Operation) and expression.symbol in "*/":
        operands, marks = _flat(expression, "*/"), "*/"
    else:
        operands, marks = _flat(expression, "+-"), "+-"
    return f"({''.join(sorted(marks[inverse] + canonical(part) for part, inverse in operands))})"


def _flat(expression: Expression, symbols: str) -> list[tuple[Expression, bool]]:
    """Operands of a whole chain of + and - (or * and /), each with whether it is inverted."""
    waiting, operands = [(expression, False)], []
    while waiting:
        part, inverse = waiting.pop()
        if isinstance(part, Operation) and part.symbol in symbols:
            waiting += ((part.left, inverse), (part.right, inverse ^ (part.symbol == symbols[1])))
        elif isinstance(part, Negation) and symbols == "+-":
            waiting.append((part.operand, not inverse))
        else:
            operands.append((part, inverse))
    return operands


def fold(
    tokens: Iterable[str],
    *,
    number: Callable[[str], Value],
    sign: Callable[[str, Value], Value],
    operation: Callable[[Value, str, Value], Value],
    depth: int,
) -> Value:
    """Folds the tokens of an expression into one value, by Python's rules of precedence.

    Dijkstra's shunting yard: one pass and no recursion, so no input can exhaust the stack.

    Args:
        tokens: Numbers, brackets, and the operators + - * / // **.
        number: Value of a number.
        sign: Value of a unary plus or minus before a value.
        operation: Value of two values around an operator.
        depth: How many brackets and operators may wait at once.

    Raises:
        NotArithmeticError: If the tokens are no expression, or wait deeper than `depth`.
    """
    values: list[Value] = []
    waiting: list[tuple[str, int]] = []  # operators and their precedence; 0 marks a bracket

    def reduce(precedence: int) -> None:
        """Applies the operators that bind at least as tightly."""
        while waiting and waiting[-1][1] >= precedence:
            symbol, rank = waiting.pop()
            right = values.pop()
            is_sign = rank == _SIGN_PRECEDENCE
            values.append(
                sign(symbol, right) if is_sign else operation(values.pop(), symbol, right)
            )

    operand_next = True
    for token in tokens:
        if operand_next and token in "+-":
            waiting.append((token, _SIGN_PRECEDENCE))
        elif operand_next and token == "(":
            waiting.append((token, 0))
        elif operand_next and token not in _PRECEDENCE and token != ")":
            values.append(number(token))
            operand_next = False
        elif not operand_next and token == ")":
            reduce(1)
            if not waiting:
                raise NotArithmeticError("a bracket closes that was never opened")
            waiting.pop()
        elif not operand_next and token in _PRECEDENCE:
            precedence = _PRECEDENCE[token]
            reduce(precedence + (token == "**"))  # ** groups from the right
            waiting.append((token, precedence))
            operand_next = True
        else:
            raise NotArithmeticError(f"{token!r} cannot stand where it stands")
        if len(waiting) > depth:
            raise NotArithmeticError(f"nested deeper than {depth}")
    if operand_next:
        raise NotArithmeticError("a number is missing at the end")
    reduce(1)
    if waiting:
        raise NotArithmeticError("a bracket is never closed")
    return values[0]


def _number(digits: str) -> Expression:
    if len(digits) > MAX_DIGITS:
        raise NotArithmeticError(f"a number of {len(digits)} digits, more than {MAX_DIGITS}")
    if digits[0] == "0" and len(digits) > 1:
        raise NotArithmeticError("a number with a leading zero")
    return Number(int(digits))


def _sign(symbol: str, operand: Expression) -> Expression:
    if symbol == "+":
        raise NotArithmeticError("a plus with nothing before it")
    return Negation(operand)
