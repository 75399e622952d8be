"""Any timm network, cut before its last stage and before its classifier."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gvr_lightning.models.pretrained_timm import from_file, quiet
from gvr_lightning.models.split import SplitNetwork

STAGES = ("layer4", "stages", "blocks", "layers")  # where timm's networks keep their stages
AFTER = ("norm_pre", "norm", "conv_head", "bn2", "final_conv")  # between the last stage and forward_head, in order
HEAD = ("global_pool", "attn_pool", "fc_norm", "head_drop", "head", "fc", "classifier", "flatten", "pre_logits")


def timm_network(
    image_shape: tuple[int, int, int],
    num_classes: int,
    name: str,
    pretrained: bool = False,
    options: Mapping[str, Any] | None = None,
    weights: str | None = None,
) -> SplitNetwork:
    """``timm.create_model(name, ...)`` as a split network.

    The cut is checked against the network's own output; where timm's layout is not known, the whole network up to the
    classifier is the early part and the last stage is empty (the head's penalty and name patterns work all the same).

    Args:
        image_shape: (C, H, W).
        num_classes: logits.
        name: any name that timm knows.
        pretrained: whether to load (download) timm's weights.
        options: further arguments of ``timm.create_model``, such as img_size.
        weights: a file with the network's weights, which nothing is downloaded for; None for none.

    Raises:
        ValueError: for a name that timm does not know (with near ones), images that the network does not take, or a
            network whose logits are not one layer's output.
    """
    import timm

    options = dict(options or {})

    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:6]}*")[:5]
        raise ValueError(f"timm has no model {name!r}" + (f"; near ones: {', '.join(near)}" if near else ""))
    sizes: dict[str, Any] = {"in_chans": image_shape[0], "num_classes": num_classes}
    try:
        with quiet():
            if weights is not None:
                net: Any = from_file(Path(weights), name, **sizes, **options).eval()
            else:
                net = timm.create_model(name, pretrained, **sizes, **options).eval()
        images = torch.linspace(-1, 1, 2 * image_shape[0] * image_shape[1] * image_shape[2]).reshape(2, *image_shape)
        with torch.no_grad():
            expected = net(images)
    except OSError as error:  # no network, or no weights of this name
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"timm cannot load the weights of {name!r}: {reason}; pretrained=false starts afresh"
        ) from error
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        shape = "x".join(map(str, image_shape))
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"timm model {name!r} does not take {shape} images with options {options}: {reason}"
        ) from error
    classifier = net.get_classifier()
    net.reset_classifier(0)
    for build in (_cut, _uncut):
        network = build(net, classifier)
        if network is not None and _equal(network, images, expected):
            return network.train()
    raise ValueError(f"timm model {name!r} does not end in one classifier layer")


class _Early(nn.Module):
    """A network's own way to its features, the last stage being taken out of it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net

    def forward(self, x: Tensor) -> Tensor:
        entering: Tensor = self.net.forward_features(x)
        return entering


class _LastStage(nn.Module):
    """The last stage, what follows it, and the network's own pooling."""

    def __init__(self, stage: nn.Module, after: nn.Sequential, net: nn.Module) -> None:
        super().__init__()
        self.stage, self.after = stage, after
        self.net: Any = net

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.net.forward_head(self.after(self.stage(x)), pre_logits=True)
        return features


class _Whole(nn.Module):
    """A network up to its classifier."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.net.forward_head(self.net.forward_features(x), pre_logits=True)
        return features


def _cut(net: nn.Module, classifier: nn.Module) -> SplitNetwork | None:
    """Two shells of the network that share its modules out between them, or None if the layout is not known."""
    name = next((s for s in STAGES if s in net._modules), None)
    stages = net._modules[name] if name else None
    if name is None or stages is None or (not isinstance(stages, nn.Sequential | nn.ModuleList) or not len(stages)):
        return None
    stage = stages if name == "layer4" else stages[-1]
    # a transformer normalises before its blocks what a ConvNeXt normalises after its stages
    after = [m for m in AFTER if m in net._modules and not (m == "norm_pre" and name == "blocks")]
    early, last = _shell(net), _shell(net)
    early._modules[name] = nn.Identity() if name == "layer4" else nn.Sequential(*list(stages)[:-1])
    early._modules.update({m: nn.Identity() for m in after})
    early._modules = {k: m for k, m in early._modules.items() if k not in HEAD}
    last._modules = {k: m for k, m in last._modules.items() if k in HEAD}
    last._parameters, last._buffers = {}, {}
    tail = nn.Sequential(*(net._modules[m] or nn.Identity() for m in after))
    return SplitNetwork(_Early(early), _LastStage(stage, tail, last), classifier)


def _uncut(net: nn.Module, classifier: nn.Module) -> SplitNetwork:
    return SplitNetwork(_Whole(net), nn.Identity(), classifier)


def _shell(net: nn.Module) -> nn.Module:
    shell = copy.copy(net)
    for table in ("_modules", "_parameters", "_buffers"):
        setattr(shell, table, dict(getattr(net, table)))
    return shell


@torch.no_grad()
def _equal(network: nn.Module, images: Tensor, expected: Tensor) -> bool:
    try:
        return torch.allclose(network.eval()(images), expected, atol=1e-6)
    except (AttributeError, RuntimeError, TypeError, KeyError):
        return False
