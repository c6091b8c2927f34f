"""What became of the rows of a data set: all that is dropped or cut is counted here."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

PERCENTILES = (50, 90, 99, 100)


@dataclasses.dataclass(frozen=True)
class Report:
    """Counts of rows and tokens.

    Attributes:
        kept: Rows that are trained on or sampled from.
        too_long: Rows dropped because they have too many tokens.
        nothing_to_learn: Rows dropped because no token of theirs is the policy's.
        truncated: Rows kept, but cut.
        stops: Rows kept that end in a stop token which is trained on.
        tokens: Tokens of the rows kept.
        response_tokens: How many of these are the policy's.
        lengths: Tokens of every row, before any was dropped or cut; of a pair, of its longer side.
        equal: Pairs dropped because their sides are equal, maybe only after being cut.
        later_turns: Pairs left out because they do not answer the first turn of a chat.
        shared_prompts: Pairs left out because the held-out data has their prompt.
    """

    kept: int
    too_long: int
    nothing_to_learn: int
    truncated: int
    stops: int
    tokens: int
    response_tokens: int
    lengths: Int[np.ndarray, " N"]
    equal: int = 0
    later_turns: int = 0
    shared_prompts: int = 0

    @property
    def rows(self) -> int:
        """Rows read."""
        return self.kept + sum(self.losses.values())

    @property
    def losses(self) -> dict[str, int]:
        """How many rows were dropped, by what is said of them."""
        return {
            "are longer than config.batch.tokens": self.too_long,
            "have no token to train on": self.nothing_to_learn,
            "are pairs of equal responses": self.equal,
            "answer a later turn": self.later_turns,
            "share their prompt with held-out data": self.shared_prompts,
        }

    @property
    def percentiles(self) -> dict[int, int]:
        """Lengths that so many per cent of all rows do not exceed."""
        if not self.lengths.size:
            return dict.fromkeys(PERCENTILES, 0)
        values = np.percentile(self.lengths, PERCENTILES, method="higher")
        return dict(zip(PERCENTILES, map(int, values), strict=True))

    @classmethod
    def total(cls, reports: "Iterable[Report]") -> "Report":
        """The report of several data sets together."""
        reports = list(reports)
        counts = [f.name for f in dataclasses.fields(cls) if f.name != "lengths"]
        sums = {name: sum(getattr(report, name) for report in reports) for name in counts}
        lengths = [np.zeros(0, np.int64), *(report.lengths for report in reports)]
        return cls(**sums, lengths=np.concatenate(lengths))
