"""AGR, and GVR's penalty, for any LightningModule of one's own: a callback of any Trainer."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from gvr_lightning.methods.agr import AGR, GRANULARITIES, agr_
from gvr_lightning.methods.gvr.variance import last_layer_variance
from gvr_lightning.methods.last_layer import candidates
from gvr_lightning.methods.optimizer_wrapper import Wrapper

INSTEAD = "use GradientVariance in training_step (docs/pages/own-code.md)"


class GradientRegularization(Callback):
    """``Trainer(callbacks=[GradientRegularization(agr=True)])``: the LightningModule stays as it is.

    AGR acts once on the gradients that an update uses: accumulated, averaged over the processes, unscaled and clipped.

    GVR's penalty needs a ``training_step`` that passes each of two or more views through the network by a call of its
    own, and returns the sum of the views' losses, of which each depends on its own view alone. Then the gradient of
    the sum by a view's logits is that of the view's loss, and alpha * penalty of the linear last layer is added to
    the loss before its backward pass: as ``GradientVariance(alpha)`` in ``training_step`` would. It is logged as
    ``gradient_variance``. The returned loss must be the sum: of a mean of V losses the penalty is V² times smaller.

    Args:
        alpha: weight of GVR's penalty; 0 for none. Automatic optimization only.
        agr: whether AGR changes the gradients of every optimizer.
        granularity: AGR's, "tensor" or "row".
        head: the last layer, or its name in the LightningModule, such as "model.fc"; None: it is found.

    Raises:
        ValueError: for settings out of range; as training begins, for what it cannot be exact with: a strategy other
            than one device or DDP, an optimizer with AGR already, a last layer that is not linear or not run twice.
    """

    def __init__(
        self,
        alpha: float = 0.0,
        agr: bool = False,
        granularity: str = "tensor",
        head: str | nn.Module | None = None,
    ) -> None:
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"alpha must be a finite number >= 0, got {alpha}")
        if granularity not in GRANULARITIES:
            raise ValueError(f"granularity must be {' or '.join(GRANULARITIES)}, got {granularity!r}")
        if not alpha and not agr:
            raise ValueError("GradientRegularization has nothing to do: give agr=True, or alpha=0.01 for GVR's penalty")
        self.alpha, self.agr, self.granularity, self.head = alpha, agr, granularity, head
        self._handles: list[Any] = []
        self._passes: list[tuple[nn.Module, Tensor, Tensor]] = []  # of this training step: layer, features, logits

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the optimizers and to the last layer."""
        self._let_go()
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            name = type(trainer.strategy).__name__
            raise ValueError(f"GradientRegularization takes one device or DDP, not {name}, which divides gradients")
        if self.alpha and not pl_module.automatic_optimization:
            raise ValueError(f"GradientRegularization(alpha=...) takes automatic optimization; in manual, {INSTEAD}")
        if self.agr:
            for optimizer in trainer.optimizers:
                _require_plain(optimizer)
                self._handles.append(optimizer.register_step_pre_hook(self._before_step))
        if self.alpha:
            layers = candidates(pl_module, self.head)
            self._handles += [layer.register_forward_hook(self._keep_pass) for layer in layers]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """No pass has been made yet."""
        self._passes.clear()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add alpha * penalty to the loss, which is that of a part of the accumulated batch, and may be scaled."""
        if not self.alpha:
            return
        features, logits, bias = self._views()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = torch.ones((), dtype=loss.dtype, device=loss.device) / trainer.accumulate_grad_batches
        scale = scale if scaler is None else scaler.scale(scale)  # without a wait for the device
        penalty = last_layer_variance([loss] * len(logits), logits, features, bias) / scale.square()
        loss.add_(self.alpha * penalty * scale)
        pl_module.log("gradient_variance", penalty.detach())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave optimizers and network as they were."""
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._let_go()

    def _let_go(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._passes = [], []

    def _keep_pass(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:  # not of validation, nor of a pass whose gradient nobody takes
            self._passes.append((layer, inputs[0], output))

    def _views(self) -> tuple[list[Tensor], list[Tensor], bool]:
        """What entered and left the last layer to run, each time that it ran; whether its bias is trained."""
        layer = self._passes[-1][0] if self._passes else None
        passes = [(h, z) for of, h, z in self._passes if of is layer]
        self._passes.clear()
        if len(passes) < 2:
            raise ValueError(
                f"the last layer ran {len(passes)} time(s) in training_step: GVR's penalty compares views, each of"
                " which passes by a call of its own; if another layer is meant, name it by head="
            )
        linear = isinstance(layer, nn.Linear) and layer.weight.requires_grad
        if not linear or any(h.ndim != 2 for h, _ in passes):
            raise ValueError(f"{type(layer).__name__} is no linear last layer over (B, D) features: {INSTEAD}")
        features, logits = map(list, zip(*passes, strict=True))
        bias: Any = getattr(layer, "bias", None)
        return features, logits, bias is not None and bool(bias.requires_grad)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Called before an optimizer's step: gradients exist after its closure, or, without one, now."""
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if closure is None:  # a gradient scaler has called it, and unscaled
            self._regularize(optimizer)
            return None
        return (*args[:1], *args[2:]), {**kwargs, "closure": self._after(closure, optimizer)}

    def _after(self, closure: Callable[[], Any], optimizer: Optimizer) -> Callable[[], Any]:
        def regularized() -> Any:
            loss = closure()
            self._regularize(optimizer)
            return loss

        return regularized

    def _regularize(self, optimizer: Optimizer) -> None:
        agr_([p.grad for group in optimizer.param_groups for p in group["params"]], self.granularity)


def _require_plain(optimizer: Any) -> None:
    """Raise for what is no optimizer of torch, or has AGR already."""
    while isinstance(optimizer, Wrapper) and not isinstance(optimizer, AGR):
        optimizer = optimizer.base
    if isinstance(optimizer, AGR):
        raise ValueError("the optimizer has AGR already: leave out agr=True, or the wrapper in configure_optimizers")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"AGR takes an instance of torch.optim.Optimizer, not {type(optimizer).__name__}")
