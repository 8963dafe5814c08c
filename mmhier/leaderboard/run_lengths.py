"""Decoding of untrusted run-length encoded masks."""
import numpy as np


def decode_run_lengths(counts: str) -> np.ndarray | None:
    """Lengths of the runs in a compressed RLE, without pycocotools.

    pycocotools writes out of bounds for damaged runs. Each character holds
    five bits of a number, lowest first, offset by '0'; 0x20 marks that more
    follow, 0x10 in the last one a negative number. From the fourth run on,
    numbers are differences to the last but one.

    Args:
        counts (str): ``counts`` of a mask.

    Returns:
        np.ndarray | None: Non-negative int64 lengths, zeros first; None if
        the string is no RLE.
    """
    try:
        codes = np.frombuffer(counts.encode('ascii'), np.uint8).astype(np.int64)
    except UnicodeEncodeError:
        return None
    codes -= ord('0')
    if not len(codes) or codes.min() < 0 or codes.max() > 0x3f:
        return None
    ends = np.flatnonzero(codes & 0x20 == 0)
    if not len(ends) or ends[-1] != len(codes) - 1:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    num_chars = ends - starts + 1
    if num_chars.max() > 7:
        return None
    place = np.arange(len(codes)) - np.repeat(starts, num_chars)
    numbers = np.add.reduceat((codes & 0x1f) << (5 * place), starts)
    numbers -= np.where(codes[ends] & 0x10, 1 << (5 * num_chars), 0)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    # Longer runs exceed any image and would overflow their sum.
    return numbers if ((0 <= numbers) & (numbers < 2**31)).all() else None
