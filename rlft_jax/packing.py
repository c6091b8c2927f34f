"""Where texts lie in rows: first fit, and what texts of a group share of their beginning.

Texts are padded, `[B, G, T]`: G to each of B prompts. Rows are `[M, R, T]`: M micro-batches of R
rows. A text never spans rows, and all texts to a prompt share a micro-batch. A row of its own for
every text is the special case that is called padded.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

# Of more rows to a device, a last one that is not full is a small part.
FEW_ROWS = 3
# Rows are cut to multiples of this only: kernels like round lengths.
ROW_MULTIPLE = 64


class Packing(NamedTuple):
    """Where each of `[B, G]` responses lies in `[M, R, T]` rows.

    Attributes:
        micro_batch, row, start: Place of the first token that is laid.
        segment: Number of the response in its micro-batch, from 1.
        skipped: Leading tokens that are not laid, because another response of the row has them.
        prompt_start: Place in the row of the first token, laid here or there.
        shape: M, R and T.
        shares: Whether responses may share prompts.
        most: The most responses that a row may have; 0 if nobody has to know.
    """

    micro_batch: Int[np.ndarray, "B G"]
    row: Int[np.ndarray, "B G"]
    start: Int[np.ndarray, "B G"]
    segment: Int[np.ndarray, "B G"]
    lengths: Int[np.ndarray, "B G"]
    skipped: Int[np.ndarray, "B G"]
    prompt_start: Int[np.ndarray, "B G"]
    shape: tuple[int, int, int]
    shares: bool = False
    most: int = 0

    @property
    def order(self) -> Int[np.ndarray, " B"]:
        """Prompts in the order in which segments count."""
        return np.lexsort((self.segment[:, 0], self.micro_batch[:, 0]))

    @property
    def segments(self) -> Int[np.ndarray, "M R T"]:
        """Which response of its micro-batch each token of the rows belongs to; 0 for padding."""
        return self._lay_all(self.segment[..., None])

    @property
    def positions(self) -> Int[np.ndarray, "M R T"]:
        """Place of each token of the rows in its response, from 0."""
        return self._lay_all(np.arange(self.lengths.max()))

    @property
    def prompt_starts(self) -> Int[np.ndarray, "M R T"]:
        """Where in its row each token's prompt begins; padding's begins with itself."""
        begins = self._lay_all(self.prompt_start[..., None])
        return np.where(self.segments > 0, begins, np.arange(self.shape[2], dtype=np.int32))

    @property
    def fullest(self) -> int:
        """Responses of the row that has the most."""
        return int(np.bincount(self._rows[self.lengths > 0], minlength=1).max())

    @property
    def starts(self) -> Int[np.ndarray, "M R S"]:
        """Where each response of a row begins, and its padding; T where there are no more.

        Rows of one response begin at 0, and the padding after it goes with it.
        """
        M, R, T = self.shape
        if self.most == 1:
            return np.zeros((M, R, 1), np.int32)
        starts = np.full((M * R, self.most + 1), T, np.int32)
        is_real = self.lengths > 0
        rows, begins = self._rows[is_real], self.start[is_real]
        laid = (self.lengths - self.skipped)[is_real]
        used = np.bincount(rows, weights=laid, minlength=M * R)
        order = np.lexsort((begins, rows))
        rows, begins = rows[order], begins[order]
        starts[rows, np.arange(len(rows)) - np.searchsorted(rows, rows)] = begins
        starts[np.arange(M * R), np.bincount(rows, minlength=M * R)] = used
        return starts.reshape(M, R, -1)

    def deal(self, values: Shaped[np.ndarray, "B *rest"]) -> Shaped[np.ndarray, "M P *rest"]:
        """Deals what prompts have out to their micro-batches, in the order of segments."""
        return values[self.order].reshape(self.shape[0], -1, *values.shape[1:])

    def lay(self, field: np.ndarray) -> np.ndarray:
        """Lays a padded per-token field `[B, G, T]` into the rows `[M, R, T]`."""
        rows = np.zeros(self.shape, field.dtype)
        padded, packed = self._places(field.shape[-1])
        rows.reshape(-1)[packed] = field[padded]
        return rows

    def lift(self, rows: np.ndarray, tokens: int) -> np.ndarray:
        """The inverse of `lay`: rows back to a padded field of T = `tokens`, 0 where skipped."""
        field = np.zeros((*self.lengths.shape, tokens), rows.dtype)
        padded, packed = self._places(tokens)
        field[padded] = rows.reshape(-1)[packed]
        return field

    def _lay_all(self, values: np.ndarray) -> np.ndarray:
        """Lays what is broadcast to a padded field."""
        padded = (*self.lengths.shape, self.lengths.max())
        return self.lay(np.broadcast_to(values.astype(np.int32), padded))

    @property
    def _rows(self) -> Int[np.ndarray, "B G"]:
        """Rows, counted over all micro-batches."""
        return self.micro_batch * self.shape[1] + self.row

    def _places(self, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Mask of the tokens of a padded field that are laid, and their flat places in the rows."""
        t = np.arange(tokens)
        is_token = (t >= self.skipped[..., None]) & (t < self.lengths[..., None])
        first = self._rows * self.shape[2] + self.start - self.skipped
        return is_token, (first[..., None] + t)[is_token]


def bucket(size: int, multiple: int = 1) -> int:
    """The next size up of a ladder with four rungs an octave, so that few shapes are compiled.

    >>> [bucket(n) for n in (1, 7, 9, 33, 100)]
    [1, 7, 10, 40, 112]
    """
    units = -(-max(size, 1) // multiple)
    rung = 1 << max(units.bit_length() - 3, 0)
    return -(-units // rung) * rung * multiple


def first_fit(
    lengths: Int[np.ndarray, "B G"],
    *,
    tokens: int,
    micro_batches: int = 1,
    packed: bool = True,
    shared: Int[np.ndarray, " B"] | None = None,
    multiple: int = 1,
    may_shorten: bool = False,
    process: int = 0,
) -> Packing:
    """Finds a place for every response: whole prompts dealt out evenly, long responses first.

    Responses that share their prompt stay together. One has it; the others of its row leave it
    out, all but its last token, and attend to it there.

    Args:
        lengths: Tokens of each response, its prompt included; 0 for none.
        tokens: Tokens of a row if `packed`, otherwise the most that a row may have.
        micro_batches: M; must divide B.
        packed: Whether responses share rows.
        shared: Leading tokens of each prompt that its responses share if `packed`; nothing is
            shared if None.
        multiple: R becomes a multiple of this, for the devices to share.
        may_shorten: Whether a few packed rows are cut to three quarters or half of `tokens`, if a
            quarter or more of their places is saved: every shape is another program.
        process: Segments are counted over processes of equally many prompts.

    Raises:
        ValueError: If a response is longer than a row.
    """
    B, G = lengths.shape
    assert B % micro_batches == 0, (B, micro_batches)
    if lengths.max() > tokens:
        raise ValueError(
            f"A response of {lengths.max()} tokens, its prompt included, does not fit into a row"
            f" of config.batch.tokens = {tokens}. Raise it, or drop or truncate longer data."
        )
    P = B // micro_batches
    # Dealt in turns of changing direction, long prompts first, so that no micro-batch is heavier.
    cost = lengths.sum(-1)
    if shared is not None and packed:
        cost = cost - shared * np.maximum((lengths > 0).sum(-1) - 1, 0)
    order = np.argsort(-cost, kind="stable")
    turn, seat = np.divmod(np.arange(B), micro_batches)
    micro_batch = np.empty(B, np.int32)
    micro_batch[order] = np.where(turn % 2, micro_batches - 1 - seat, seat)
    slot = np.empty(B, np.int32)
    for m in range(micro_batches):
        slot[micro_batch == m] = np.arange(P)
    segment = (process * P + slot[:, None]) * G + np.arange(G) + 1
    micro_batch = np.repeat(micro_batch[:, None], G, axis=1)
    zeros = np.zeros_like(lengths)
    packing = Packing(micro_batch, zeros, zeros, segment, lengths, zeros, zeros, (0, 0, 0))
    if packed:
        filled = _filled(packing, shared, tokens, micro_batches, multiple)
        if not may_shorten or filled.shape[1] > FEW_ROWS * multiple:
            return filled
        lengths_of_row = [T for T in (3 * tokens // 4, tokens // 2) if T % ROW_MULTIPLE == 0]
        shorter = [
            _filled(packing, shared, T, micro_batches, multiple)
            for T in lengths_of_row
            if lengths.max() <= T
        ]
        best = min([filled, *shorter], key=lambda packing: np.prod(packing.shape))
        return best if 4 * np.prod(best.shape) <= 3 * np.prod(filled.shape) else filled
    packing = packing._replace(row=segment - 1 - process * P * G)
    T = min(bucket(int(lengths.max()), 8), tokens)
    return packing._replace(shape=(micro_batches, bucket(P * G, multiple), T))


def _filled(
    packing: Packing, shared: np.ndarray | None, tokens: int, micro_batches: int, multiple: int
) -> Packing:
    """Rows of so many tokens by first fit, what needs most first."""
    lengths = packing.lengths
    row, start, skipped, prompt_start = (np.zeros_like(lengths) for _ in range(4))
    used = np.zeros((micro_batches, lengths.size), np.int64)
    for size, common, places in _bundles(lengths, shared):
        rows, begins = used[packing.micro_batch[places[0]]], {}
        for place in places:
            added = lengths[place] - common
            r = next((r for r in begins if rows[r] + added <= tokens), None)
            if r is None:
                # What is left goes where all of it fits, else where this one does.
                room = size if size <= tokens else lengths[place]
                r = int(np.argmax(rows + room <= tokens))
                begins[r], laid = rows[r], lengths[place]
            else:
                skipped[place], laid = common, added
            row[place], start[place], prompt_start[place] = r, rows[r], begins[r]
            rows[r] += laid
            size -= added
    return packing._replace(
        row=row,
        start=start,
        skipped=skipped,
        prompt_start=prompt_start,
        shape=(micro_batches, bucket(int(row.max()) + 1, multiple), tokens),
        shares=shared is not None,
    )


def _bundles(
    lengths: np.ndarray, shared: np.ndarray | None
) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Tokens, common leading tokens and places of responses that stay together, largest first."""
    bundles = []
    for b, of_prompt in enumerate(lengths):
        common = 0 if shared is None else int(shared[b])
        places = [(b, int(g)) for g in np.argsort(-of_prompt, kind="stable") if of_prompt[g]]
        for part in [places] if common else [[place] for place in places]:
            if part:
                size = common + sum(int(lengths[place]) - common for place in part)
                bundles.append((size, common, part))
    return sorted(bundles, key=lambda bundle: -bundle[0])


def shared_start(
    tokens: Int[np.ndarray, "B G T"],
    lengths: Int[np.ndarray, "B G"],
    may_share: Bool[np.ndarray, "B G T"] | None = None,
) -> Int[np.ndarray, " B"]:
    """Leading tokens that all texts of a group have in common, but for the last of them.

    That one stays with each text: what differs is read off after it.
    """
    is_there = lengths[..., None] > 0
    first_B1T = np.take_along_axis(tokens, is_there.argmax(1, keepdims=True), axis=1)
    is_common = (tokens == first_B1T) & (np.arange(tokens.shape[-1]) < lengths[..., None])
    if may_share is not None:
        is_common &= may_share
    common_B = np.cumprod((is_common | ~is_there).all(1), axis=1).sum(1)
    return np.where(is_there.any((1, 2)), np.maximum(common_B - 1, 0), 0).astype(np.int32)
