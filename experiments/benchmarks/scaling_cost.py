"""What the processes of a run send each other at every step, and what that costs on machines that nobody has measured.

python experiments/benchmarks/scaling_cost.py                          # docs/pages/scaling.md's tables, in Markdown
python experiments/benchmarks/scaling_cost.py --network 320 --images-per-second 1400

The counts are those that tests/test_scaling.py finds in real steps on 2 and 4 processes. The seconds are arithmetic:
bytes over an assumed bandwidth, plus an assumed latency.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gvr_lightning.distributed.batch import product_norm_is_cheaper
from gvr_lightning.models.timm_network import timm_network

FLOAT, MIB = 4, 2**20
BUCKETS = [MIB, 25 * MIB]  # of DDP, the first and the others
GPUS, HEADS = (8, 64, 1024), (1000, 21841)


class Network(NamedTuple):
    """What counts of a network: the shapes of each part's parameters, and its BatchNorms' channels."""

    shapes: tuple[Sequence[torch.Size], ...]  # of early, last stage, head
    norms: tuple[Sequence[int], ...]  # likewise
    classes: int
    features: int

    @classmethod
    def of(cls, model: nn.Module) -> "Network":
        """From a split network with a linear head."""
        parts = [model.get_submodule(name) for name in ("backbone.early", "backbone.last_stage", "head")]
        shapes = tuple([p.shape for p in part.parameters()] for part in parts)
        norms = tuple([m.num_features for m in part.modules() if isinstance(m, _BatchNorm)] for part in parts)
        return cls(shapes, norms, int(parts[2].out_features), int(parts[2].in_features))  # type: ignore[arg-type]

    def numel(self, *parts: int) -> int:
        """How many parameters some parts have, all of them by default."""
        return sum(shape.numel() for part in parts or range(3) for shape in self.shapes[part])

    @property
    def tensors(self) -> int:
        """How many tensors the parameters are."""
        return sum(map(len, self.shapes))


class Variant(NamedTuple):
    """A regularizer: how many views and passes a step has, and what its penalty compares."""

    views: int = 1
    passes: int = 1  # through the whole network, with a backward pass
    head: bool = False  # compares gradients of the head
    last_stage: bool = False  # and of the last stage
    subset: int | None = None  # rows that are compared, of each view; None: all
    halves: bool = False  # compares the halves of one view
    one_view: bool = False  # takes the head's mean gradient of each view alone
    agr: bool = False
    after: int = 0  # passes after the update
    again: int = 0  # collectives of each BatchNorm of the last stage beyond two a pass
    calls: int = 1  # of the closure, each with all passes: SAM's two


# fmt: off
VARIANTS = {
    "none": Variant(),
    "two_view": Variant(2, 2),
    "gvr": Variant(2, 2, head=True),
    "gvr, subset=32": Variant(2, 2, head=True, subset=32),
    "gvr_split": Variant(head=True, halves=True),
    "gvr_per_sample": Variant(2, 2),
    "gvr_last_stage": Variant(2, 2, last_stage=True, again=8),
    "gvr_published": Variant(2, 4, last_stage=True, after=1, again=4),
    "agr": Variant(agr=True),
    "gvr_agr": Variant(2, 2, head=True, agr=True),
    "consistency": Variant(2, 2),
    "gvr_normalised": Variant(2, 2),
    "gvr_label_free": Variant(2, 2),
    "gvr_one_view": Variant(one_view=True),
    "feature_norm": Variant(),
    "consistency_target": Variant(2, 2),
    "augmix": Variant(3, 3),
    "gce": Variant(),
    "label_smoothing": Variant(),
    "sam": Variant(calls=2),
    "sam_agr": Variant(agr=True, calls=2),
}
# fmt: on


class Sent(NamedTuple):
    """A collective; ``size`` in bytes is that of the tensor that all know in the end, or of what is scattered."""

    kind: str  # all_reduce, all_gather, reduce_scatter or broadcast
    size: int


def penalty(network: Network, variant: Variant, batch: int, processes: int, gram: bool | None = None) -> list[Sent]:
    """What a penalty adds.

    Args:
        network: that it looks at.
        variant: which.
        batch: rows of all processes together.
        processes: how many.
        gram: whether inner products are taken; None: as the code chooses.
    """
    if variant.last_stage:
        return [Sent("all_reduce", FLOAT * network.numel(1, 2))]
    if not variant.head and not variant.one_view:
        return []
    c, d, compared = network.classes, network.features, 1 if variant.one_view else 2
    rows = variant.subset or math.ceil(batch / (1 + variant.halves))
    most = min(rows, -(-batch // processes))  # of a view, on one process
    halves = processes * most if variant.head else -(-processes * most // 2)
    if product_norm_is_cheaper(halves, c, d + variant.one_view, processes) if gram is None else gram:
        return [Sent("all_gather", FLOAT * processes * compared * most * (c + d + 1))]
    return [Sent("all_reduce", FLOAT * (c * d + c))]


def replicas(network: Network, variant: Variant) -> list[Sent]:
    """DDP: the gradients, in buckets from the last parameter to the first."""
    params = [torch.empty(shape, device="meta") for part in network.shapes for shape in part][::-1]
    buckets, _ = dist._compute_bucket_assignment_by_size(params, BUCKETS)
    return [Sent("all_reduce", FLOAT * sum(params[i].numel() for i in bucket)) for bucket in buckets] * variant.calls


def shards(network: Network, variant: Variant, processes: int, looks: bool = False) -> list[Sent]:
    """FSDP2: weights are gathered and gradients scattered, part by part; a tensor's rows are padded to equal shares.

    Args:
        network: of three parts, each a unit.
        variant: weights are gathered once for all its passes.
        processes: how many.
        looks: whether it is looked at every step whether gradients are finite: on a CPU, or to skip such updates.
    """
    sent = []
    for shapes in network.shapes:
        whole = FLOAT * sum(-(-s[0] // processes) * processes * s[1:].numel() for s in shapes)
        gathers = variant.calls + variant.after
        sent += [Sent("all_gather", whole)] * gathers + [Sent("reduce_scatter", whole)] * variant.calls
    sent += [Sent("all_reduce", FLOAT * network.tensors)] * (variant.agr + looks * variant.calls)
    return sent + [Sent("all_reduce", 2 * FLOAT * network.tensors)] * (variant.calls - 1)  # SAM's norm, in float64


def statistics(network: Network, variant: Variant, processes: int) -> list[Sent]:
    """BatchNorm over all processes: mean, squares and count of each, forward and backward."""
    sent = []
    for part, norms in enumerate(network.norms):
        times = 2 * variant.passes * variant.calls + variant.after + (variant.again if part == 1 else 0)
        sent += [Sent("all_reduce", FLOAT * processes * (2 * c + 1)) for c in norms for _ in range(times)]
    return sent


class Machine(NamedTuple):
    """Assumptions, none of them measured."""

    node: int = 8  # GPUs of a node
    nvlink: float = 360.0  # GB/s of a GPU to the next of its node, one direction
    network: float = 40.0  # of a GPU to one of another node
    hop: float = 5.0  # microseconds
    images_per_second: float = 2500.0  # that a GPU trains of ResNet-50 (224 x 224, mixed precision)

    def seconds(self, sent: Sequence[Sent], processes: int) -> float:
        """One after the other on one ring, whose slowest link counts."""
        speed = 1e9 * (self.nvlink if processes <= self.node else self.network)
        rounds = {"all_reduce": 2}
        size = sum(s.size * rounds.get(s.kind, 1) for s in sent) * (processes - 1) / processes
        return size / speed + len(sent) * 2 * math.log2(processes) * self.hop * 1e-6


def costs(network: Network, machine: Machine, per_gpu: int) -> None:
    """The table of what each variant's penalty adds to a step."""
    print("| | " + " | ".join(f"{w:,} GPUs, batch {w * per_gpu:,}" for w in GPUS) + " |\n|---|" + "---|" * len(GPUS))
    for name, variant in VARIANTS.items():
        if (variant.head or variant.last_stage) and not variant.agr:
            cells = [_cell(network, variant, machine, per_gpu, w) for w in GPUS]
            print(f"| {name} | " + " | ".join(cells) + " |")
    for form, gram in (("dense", False), ("Gram", True)):
        cells = [_cell(network, VARIANTS["gvr"], machine, per_gpu, w, gram) for w in GPUS]
        print(f"| gvr, were it always {form} | " + " | ".join(cells) + " |")
    others: dict[str, Callable[[int], list[Sent]]] = {
        "gradients, DDP": lambda w: replicas(network, VARIANTS["none"]),
        "FSDP2, one view": lambda w: shards(network, VARIANTS["none"], w),
        "FSDP2, two views": lambda w: shards(network, VARIANTS["two_view"], w),
        "sync_batchnorm, two views": lambda w: statistics(network, VARIANTS["two_view"], w),
    }
    for title, sent in others.items():
        cells = [f"{len(sent(w))}: {_size(sent(w))}, {1e3 * machine.seconds(sent(w), w):.2f} ms" for w in GPUS]
        print(f"| {title} | " + " | ".join(cells) + " |")


def _cell(
    network: Network, variant: Variant, machine: Machine, per_gpu: int, processes: int, gram: bool | None = None
) -> str:
    sent = penalty(network, variant, processes * per_gpu, processes, gram)
    form = "Gram" if sent[0].kind == "all_gather" else "dense"
    seconds, step = machine.seconds(sent, processes), variant.views * per_gpu / machine.images_per_second
    chosen = f"{form}: " if variant.head and gram is None else ""
    share = 100 * seconds / step
    return f"{chosen}{_size(sent)}, {1e3 * seconds:.2f} ms, {share:.{int(share < 10)}f}%"


def _size(sent: Sequence[Sent]) -> str:
    size = sum(s.size for s in sent) / 1e6
    return f"{size:.1f} MB" if size < 1000 else f"{size / 1000:.1f} GB"


def memory(network: Network) -> None:
    """The table of what a process keeps: weights, gradients, optimizer state (SGD with momentum), no activations."""
    whole, largest = FLOAT * network.numel() / 1e6, FLOAT * max(network.numel(part) for part in range(3)) / 1e6
    matrix = FLOAT * network.classes * network.features / 1e6
    sizes = {
        "between steps": [3 * whole, *(2 * whole / w for w in GPUS)],
        "at the end of the backward pass, two views": [3 * whole, *(2 * whole + 3 * whole / w + largest for w in GPUS)],
        "a dense penalty, in passing": [8 * matrix] * (1 + len(GPUS)),
    }
    print("| MB a process | DDP |" + "".join(f" FSDP2, {w:,} GPUs |" for w in GPUS))
    print("|---|---|" + "---|" * len(GPUS))
    for title, row in sizes.items():
        print(f"| {title} |" + "".join(f" {mb:,.{int(mb < 10)}f} |" for mb in row))


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in Machine()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--per-gpu", type=int, default=32, help="images a GPU, of one view")
    options = vars(parser.parse_args())
    per_gpu = options.pop("per_gpu")
    machine = Machine(**options)
    print(", ".join(f"{name} {value:g}" for name, value in machine._asdict().items()) + f", {per_gpu} images a GPU")
    for classes in HEADS:
        network = Network.of(timm_network((3, 64, 64), classes, "resnet50"))
        print(f"\n### ResNet-50, {classes:,} classes: {network.numel() / 1e6:.1f} M parameters\n")
        costs(network, machine, per_gpu)
        print()
        memory(network)


if __name__ == "__main__":
    main()
