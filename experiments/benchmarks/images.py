"""Decoding and cropping JPEG files: one decode for all views, against torchvision's ImageFolder in a DataLoader.

python experiments/benchmarks/images.py photos/train --workers 1

Both end with normalised float32 batches of random resized crops, mirrored half of the time, and read files that the
system has in memory. Then a transform of torchvision's as data.transform: in the step's own process, and in others.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import interleave, report
from torch.utils.data import DataLoader, Subset

from gvr_lightning.data.ahead import ReadAhead
from gvr_lightning.data.augmentation import Augmentation, PerImage
from gvr_lightning.data.encoded import EncodedImages
from gvr_lightning.data.reading import TransformReading, numbers_of
from gvr_lightning.data.transforms.resample import ResizedCrop

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Views:
    """Torchvision's usual transforms, once a view, of one decoded image."""

    def __init__(self, views: int, size: int) -> None:
        from torchvision import transforms as T

        chain = [T.RandomResizedCrop(size), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)]
        self.views, self.transform = views, T.Compose(chain)

    def __call__(self, image: Any) -> list[Any]:
        return [self.transform(image) for _ in range(self.views)]


def theirs(loader: "DataLoader[Any]") -> None:
    """An epoch of a loader."""
    for _ in loader:
        pass


def ours(images: EncodedImages, views: int, batch: int, augmentation: Augmentation, ahead: ReadAhead) -> None:
    """An epoch as the data module has it on a CPU."""
    crop, rest = augmentation.before_decoding()
    keys, mean, std = list(range(views)), torch.tensor(MEAN), torch.tensor(STD)
    batches: Iterator[torch.Tensor] = iter(torch.arange(len(images)).split(batch))
    for reading in ahead.through(batches, lambda index: images.read(index, crop, keys)):
        rest(reading.images.result(), mean, std, reading.numbers, keys)


def of_ones_own(reading: TransformReading, images: int, batch: int) -> None:
    """An epoch of a transform of one's own, as the data module has it on a CPU."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    for each in reading.training(iter(torch.arange(images).split(batch)), [0], 1, torch.device("cpu")):
        index, begun = numbers_of(each)
        reading.augmentation(reading.trained_on(index, [0], begun), mean, std)


def transforms(size: int) -> PerImage:
    """What many train with."""
    from torchvision.transforms import v2

    jitter = v2.ColorJitter(0.4, 0.4, 0.4)
    return PerImage(v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(), jitter]))


def main() -> None:
    """Time both on the same files, taking turns: first wall clock and as many workers, then seconds of one core."""
    from torchvision.datasets import ImageFolder

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of class folders")
    for name, default in (("images", 256), ("batch", 64), ("size", 224), ("workers", 1), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    torch.set_num_threads(1)
    samples = ImageFolder(str(options.folder)).samples
    numbers = list(range(0, len(samples), max(1, len(samples) // options.images)))[: options.images]
    files = [Path(samples[number][0]) for number in numbers]
    images = EncodedImages(files, 3, (options.size, options.size), workers=options.workers)
    augmentation, ahead = Augmentation(0, True, 0, 0.0, [ResizedCrop(SCALE, RATIO)]), ReadAhead()

    def jobs(workers: int) -> dict[str, Callable[[], object]]:
        found: dict[str, Callable[[], object]] = {}
        for views in (1, 2):
            some = Subset(ImageFolder(str(options.folder), Views(views, options.size)), numbers)
            loader = DataLoader(some, options.batch, num_workers=workers, persistent_workers=workers > 0)
            found[f"ours, {views}"] = partial(ours, images, views, options.batch, augmentation, ahead)
            found[f"torchvision, {views}"] = partial(theirs, loader)
        return found

    against = {f"torchvision, {views}": f"ours, {views}" for views in (1, 2)}
    print(f"wall clock, {options.workers} workers; views")
    report(interleave(jobs(options.workers), options.repeats), against)
    print("\nseconds of a core, torchvision without the cost of its workers; views")
    seconds = interleave(jobs(0), options.repeats, clock=time.process_time)
    report(seconds, against)
    for name, times in seconds.items():
        print(f"{name}: {len(files) / sorted(times)[len(times) // 2]:,.0f} images/s a core")
    readings = {str(n): TransformReading(images, transforms(options.size), n) for n in (0, 1, 2)}
    own = {name: partial(of_ones_own, reading, len(files), options.batch) for name, reading in readings.items()}
    for what, clock in (("wall clock", time.perf_counter), ("seconds of the step's process", time.process_time)):
        print(f"\n{what}, of data.transform; data.transform_workers")
        report(interleave(own, options.repeats, clock=clock), {"1": "0", "2": "0"})


if __name__ == "__main__":
    main()
