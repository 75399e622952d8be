"""Images in one folder a class."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gvr_lightning.data.decoded_set import DecodedSet
from gvr_lightning.data.image_set import Splits
from gvr_lightning.data.listing import list_images
from gvr_lightning.errors import UserError

LEFT_OUT = "files that are no images are left out"


class ImageFolder(DecodedSet):
    """``root/train/<class>/**`` and ``root/test/<class>/**``, read as a :class:`DecodedSet` says.

    Other usual layouts are found by :func:`gvr_lightning.data.layouts.find_layout`; ``test_folder`` is the name of the
    folder with the test images.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int | Sequence[int] | None = None,
        channels: int = 3,
        cache_dir: str | None = None,
        workers: int | None = None,
        test_folder: str | None = None,
        value_range: Sequence[float] | None = None,
        skip_broken: bool = False,
        keep: str = "auto",
        crop_pct: float = 1.0,
    ) -> None:
        super().__init__(image_size, channels, cache_dir, workers, value_range, skip_broken, keep, crop_pct)
        self.test_folder = test_folder
        if test_folder is not None and (Path(test_folder).name != test_folder or test_folder in ("..", "train")):
            raise UserError(f"data.test_folder={test_folder}: the name of a folder beside train")
        self.root = Path(root).expanduser().absolute()

    def __call__(self) -> Splits:
        """List the images, and read them from the cache where it has them.

        Raises `UserError` for a folder or class that is missing or empty, for images that cannot be decoded or differ
        in size, and for files that change meanwhile.
        """
        started = time.time_ns()
        listing = list_images(self.root, self.test_folder)
        for what, endings in (("images of several formats", listing.endings()), (LEFT_OUT, listing.left_out)):
            if len(endings) > (what != LEFT_OUT):
                counts = ", ".join(f"{n:,} {ending}" for ending, n in sorted(endings.items()))
                print(f"data: {what}: {counts}", file=sys.stderr)
        if listing.layout.said:
            print(f"data: {listing.layout.said}", file=sys.stderr)
        return self.read(listing, started)
