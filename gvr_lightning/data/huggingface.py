"""Image classification sets of the ``datasets`` library, decoded once and then read from a cache."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gvr_lightning.data.cache import Cache
from gvr_lightning.data.columns import find_parts, image_column, label_column, numbered, require_alike
from gvr_lightning.data.decoded_set import DecodedSet
from gvr_lightning.data.hub import open_set, require_datasets
from gvr_lightning.data.image_set import Splits
from gvr_lightning.data.rows import Row, Rows, files_of, stamp


class HuggingFace(DecodedSet):
    """A set by its name on the hub, or from a local parquet or arrow file, or a folder of these or of images.

    Args:
        path: the name, file or folder.
        subset: which of its configurations.
        revision: a commit, tag or branch of the hub.
        train_split: the split to train on, or a part of one such as ``train[:80%]``; None: the one of that name.
        val_split: likewise for validation, None also where there is none.
        test_split: likewise for the test.
        image_column: None: the only one with images.
        label_column: None: the only one with named classes, or else with whole numbers or text.
        decoding: as :class:`DecodedSet` takes it.
    """

    def __init__(
        self,
        path: str,
        subset: str | None = None,
        revision: str | None = None,
        train_split: str | None = None,
        val_split: str | None = None,
        test_split: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        **decoding: Any,
    ) -> None:
        super().__init__(**decoding)
        require_datasets()
        self.path, self.subset, self.revision = str(path), subset, revision
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.image_column, self.label_column = image_column, label_column

    def __call__(self) -> Splits:
        """Read the images, from the cache where it has them, as a memory map.

        Raises `UserError` for a set that is not there, parts or columns that are missing or not clear, and as
        :meth:`DecodedSet.read`.
        """
        started = time.time_ns()
        return self.read(self._found(), started)

    def _found(self) -> Rows:
        local, cache = Path(self.path).expanduser().absolute(), Cache(self.cache_dir).folder
        sources = [local] if local.exists() else []
        files = files_of(sources, cache)
        made = cache / "huggingface" / stamp(files)[:16]
        opened = open_set(self.path, self.subset, self.revision, made)
        parts = find_parts(
            {name: len(rows) for name, rows in opened.items()}, self.train_split, self.test_split, self.val_split
        )
        features = opened[parts["train"].name].features
        images, labels = image_column(features, self.image_column), label_column(features, self.label_column)
        for part in parts.values():
            require_alike(
                f"data.path={self.path}: the split {part.name}", images, labels, features, opened[part.name].features
            )
        used = ", ".join(f"{name}: {part.name} ({part.end - part.start:,})" for name, part in parts.items())
        print(f"data: {used}; images in the column {images}, labels in {labels}", file=sys.stderr)
        values = {
            name: opened[part.name].data.column(labels).slice(part.start, part.end - part.start).to_pylist()
            for name, part in parts.items()
        }
        classes, targets = numbered(f"data.label_column={labels}", features[labels], values)
        rows = []
        for part in parts.values():
            column = opened[part.name].data.column(images)
            rows += [Row(part.name, number, column) for number in range(part.start, part.end)]
        if not sources:  # of the hub: where the library keeps it
            sources = [Path(file["filename"]) for part in opened.values() for file in part.cache_files]
            files = files_of(sources, cache)
        counts = (len(targets["train"]), len(targets["test"]), len(targets.get("val", ())))
        chosen = repr((self.subset, self.revision, images, labels, parts))
        return Rows(rows, np.concatenate(list(targets.values())), counts, classes, sources, cache, files, chosen)
