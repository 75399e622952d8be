"""Paired augmentation: whole batches against torchvision's transforms, image by image.

python experiments/benchmarks/augmentation.py                       # two views of 32x32 images, one thread
"""

import argparse

import torch
from timing import interleave, report

from gvr_lightning.data.augmentation import Augmentation

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Cutout:
    """The published transform: a square of 16 pixels at a random place, half of the time, set to the mean colour."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if torch.rand(()) < 0.5:
            top, left = (int(torch.randint(-8, 24, ())) for _ in range(2))
            image[:, max(0, top) : top + 16, max(0, left) : left + 16] = 0
        return image


def main() -> None:
    """Time both on the same images, taking turns; crop, flip, normalise and Cutout."""
    from PIL import Image
    from torchvision import transforms as T

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (options.batch, 3, 32, 32), dtype=torch.uint8)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    per_image = T.Compose(
        [T.RandomHorizontalFlip(), T.RandomCrop(32, 4), T.ToTensor(), T.Normalize(MEAN, STD), Cutout()]
    )
    augmentation, mean, std, index = Augmentation(), torch.tensor(MEAN), torch.tensor(STD), torch.arange(options.batch)
    jobs = {
        "whole batch": lambda: augmentation(images, mean, std, index, [1, 2]),
        "torchvision": lambda: [torch.stack([per_image(picture) for picture in pictures]) for _ in range(2)],
    }
    seconds = interleave(jobs, options.repeats, warmup=3)
    report(seconds, {"torchvision": "whole batch"}, "ms", 1e3)
    for name, times in seconds.items():
        print(f"{name}: {options.batch / sorted(times)[len(times) // 2]:,.0f} samples/s (two views each)")


if __name__ == "__main__":
    main()
