"""How IFEval compares a count with the number that an instruction names."""

from typing import Literal

Relation = Literal["less than", "at least"]


def holds(count: int, relation: Relation, threshold: int) -> bool:
    """Whether the count stands in the relation to the threshold.

    >>> holds(3, "at least", 3), holds(3, "less than", 3)
    (True, False)
    """
    return count < threshold if relation == "less than" else count >= threshold
