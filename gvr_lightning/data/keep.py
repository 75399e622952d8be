"""Whether a data set is decoded once and kept, or stays encoded."""

import sys

from gvr_lightning.errors import UserError

LIMIT = 8 * 10**9  # bytes of decoded images that are kept
AUTO, DECODED, ENCODED = WAYS = ("auto", "decoded", "encoded")


def stays_encoded(keep: str, shape: tuple[int, int, int, int] | None, skip_broken: bool) -> bool:
    """What ``data.keep`` comes to; what "auto" does is said in a line.

    Args:
        keep: one of ``WAYS``.
        shape: (N, C, H, W) of the decoded images, None where only they themselves say what it is.
        skip_broken: whether broken images are left out, which are known once all are decoded.

    Raises:
        UserError: for what can only be had of decoded images.
    """
    if keep not in WAYS:
        raise UserError(f"data.keep={keep}: must be one of {', '.join(WAYS)}")
    size = 0 if shape is None else shape[0] * shape[1] * shape[2] * shape[3]
    if keep == DECODED or (keep == AUTO and size <= LIMIT):
        if keep == AUTO and shape is not None:
            print(f"data: {shape[0]:,} images are kept decoded, {size / 1e9:.2g} GB", file=sys.stderr)
        return False
    if shape is None:
        raise UserError("data.keep=encoded: set data.image_size, as images that stay encoded need not be of one size")
    if skip_broken:
        why = f"{shape[0]:,} images stay encoded, and which are broken is not known before they are read"
        raise UserError(f"data.skip_broken=true: {why}; remove those, or set data.keep=decoded ({size / 1e9:.2g} GB)")
    if keep == AUTO:
        line = f"{shape[0]:,} images would be {size / 1e9:,.3g} GB decoded, more than {LIMIT / 1e9:g}"
        print(f"data: {line}: they stay encoded, and are decoded whenever they are read", file=sys.stderr)
    return True
