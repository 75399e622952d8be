"""Every sampler draws from one trained network: FID and IS, grey levels, and a grid of each.

    python train.py task=ddpm optimizer=adam epochs=60 name=digits
    python experiments/samplers/side_by_side.py outputs/digits/<time> out=experiments/samplers/digits

The images start from the same noise in all of them. Levels are those of 8 bits that the pixels have, counted over all
images: a sampler that explodes draws black and white.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from gvr_lightning.app.build import build_data, build_sampler
from gvr_lightning.checkpoint import load_network
from gvr_lightning.config.folder import conf_folder, group_options
from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.diffusion.sampler import draw
from gvr_lightning.instantiate import make
from gvr_lightning.metrics.extractor import Extractor
from gvr_lightning.metrics.scoring import Scoring
from gvr_lightning.recording.images import save_grid

STEPS = (20, 50)


def settings(sampler: str, steps: int) -> Any:
    """A sampler's node as the command line would compose it."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", overrides=["task=ddpm", f"sampler={sampler}", f"sampler.steps={steps}"])


def levels(images: Tensor) -> int:
    """How many of the 256 values some pixel has."""
    return len(torch.unique(images))


def main(arguments: Sequence[str]) -> None:
    """Print the table, and leave a grid for each."""
    run, given = Path(arguments[0]), dict(text.split("=", 1) for text in arguments[1:])
    out, n = Path(given.get("out", ".")), int(given.get("n", 1000))
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load_network(run / "checkpoints" / "last.ckpt")
    network: Any = loaded.network
    network.to(device, memory_format=torch.channels_last)
    noise = make(OmegaConf.create(loaded.config["task"]["noise"]), "task.noise", wanted=Noise)
    data = build_data(OmegaConf.create(loaded.config))
    data.setup("fit")
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        node = compose("config", overrides=["task=ddpm", "extractor=classifier"]).extractor
    scoring = Scoring(make(node, "extractor", Extractor, data=data), data, n, 10, True, "")
    scoring.prepare(device)
    print("| sampler | steps | FID | IS | grey levels | darkest and lightest twentieth |\n|---|---|---|---|---|---|")
    held_out = data.test_images[:n]
    report("real, held out", len(held_out), scoring.of([held_out]), held_out, "images")
    for name in group_options()["sampler"]:
        for steps in STEPS:
            drawer = build_sampler(settings(name, steps).sampler, noise)
            batches = [batch.cpu() for batch in draw(drawer, network, loaded.image_shape, n, 0, 500, False)]
            images = torch.cat(batches)
            report(name, steps, scoring.of(batches), images)
            save_grid(images[:64], out / f"{name}_{steps}.png")


def report(name: str, steps: int, scores: dict[str, float], images: Tensor, unit: str = "") -> None:
    """A row of the table."""
    ends = ((images < 13) | (images > 242)).float().mean().item()
    row = f"{steps} {unit}".strip(), f"{scores['fid']:.3f}", f"{scores['is/mean']:.2f}", str(levels(images))
    print(f"| {name} | {' | '.join(row)} | {ends:.0%} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
