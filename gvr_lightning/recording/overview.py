"""What a run starts with, on standard error: the images and the network."""

from rich.console import Console
from rich.table import Table
from torch import nn

from gvr_lightning.data.datamodule import ViewsDataModule


def print_overview(model: nn.Module, data: ViewsDataModule, precision: str = "32-true") -> None:
    """The number of images of each part, the precision if it is not float32, and the parameters of each part."""
    console = Console(stderr=True)
    shape = "x".join(map(str, data.image_shape))
    parts = {"train": data.train_index, "validation": data.val_index, "test": data.test_index}
    counts = ", ".join(f"{len(index):,} {name}" for name, index in parts.items())
    console.print(f"data: {counts} images of {shape}, {data.num_classes} classes", highlight=False)
    if too_large := _cutout(data):
        console.print(too_large, highlight=False)
    if data.validates_own:
        said = f"validation: the set's own part; data.val_fraction={data.val_fraction:g} holds nothing out"
        console.print(said, highlight=False)
    if noise := data.noise_record:
        words = f"{noise['kind']}, {noise['wrong']:,} of {noise['of']:,} training labels are wrong"
        console.print(f"label noise: {words} ({noise['actual_rate']:.2%})", highlight=False)
        if part := noise.get("validation"):
            said = f"label noise: {part['wrong']:,} of {part['of']:,} validation labels are wrong, too"
            console.print(said, highlight=False)
    if precision not in ("32-true", "32"):
        console.print(f"precision: {precision}", highlight=False)
    table = Table("part", "layers", "parameters", "trainable")
    for name in ("backbone.early", "backbone.last_stage", "head", ""):
        module = model.get_submodule(name)
        layers = sum(1 for m in module.modules() if not list(m.children()))
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        total, trainable = sum(n for n, _ in sizes), sum(n for n, grad in sizes if grad)
        table.add_row(name or "all", str(layers), f"{total:,}", f"{trainable:,}", style=None if name else "bold")
    console.print(table)


def _cutout(data: ViewsDataModule) -> str:
    """Of a square that was meant for larger images: a network learns little from what it leaves, and nothing fails."""
    side, smaller = getattr(data.augmentation, "cutout", 0), min(data.image_shape[-2:])
    if side < smaller or not data.augmentation.cutout_prob:  # type: ignore[attr-defined]
        return ""
    return f"data.augmentation.cutout={side} hides most of an image: set it to {smaller // 2}, or to 0"
