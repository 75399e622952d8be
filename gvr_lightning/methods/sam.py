"""SAM, sharpness-aware minimization: the gradients of an update are taken where the loss nearby is about largest."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gvr_lightning.methods.agr import AGR
from gvr_lightning.methods.layout import by_stride, part_like
from gvr_lightning.methods.optimizer_wrapper import Wrapper
from gvr_lightning.methods.passes import at_least_float32
from gvr_lightning.methods.shrink import whole


class SAM(Wrapper):
    """Any optimizer, updating w by the gradients at w + e(w), which cost a second call of the closure.

    With g the gradients of all parameters together, e = rho g / (||g|| + eps): Foret et al., "Sharpness-Aware
    Minimization for Efficiently Improving Generalization" (ICLR 2021, arXiv 2010.01412). ``adaptive`` is ASAM:
    e = rho T² g / (||T g|| + eps), Kwon et al. (ICML 2021, arXiv 2102.11600), with T = |w| for all parameters, as in
    the widely used https://github.com/davda54/sam; the authors' own code adds 0.01 to T, and has T = 1 for biases.

    `param_groups`, `state`, `state_dict()`, hooks and every other attribute are the wrapped optimizer's, so schedulers
    take the wrapper and checkpoints move between wrapped and plain. Between the two calls nothing else is changed:

    - Of several processes the closure leaves gradients that are averaged already, so e is that of the global batch.
    - Clipping belongs into the closure. A norm's leaves e as it is, and limits the second gradients.
    - Layers that keep statistics would count every batch twice. The tasks here freeze BatchNorm's, and repeat dropout's
      masks, in every further call; a closure of one's own may do so by ``frozen_statistics`` (methods/passes.py).
    - ``SAM(AGR(...))`` climbs along the gradients themselves, and AGR changes those of the update, once (`sam_agr`).
      ``AGR(SAM(...))`` changes them after either call, each once, so it climbs along regularized ones.

    Args:
        optimizer: what updates the weights.
        rho: how far from w, as a norm; for ``adaptive`` relative to the weights, and some ten times as large.
        adaptive: ASAM.
        eps: added to the norm.

    Raises:
        TypeError: for what is no optimizer, or SAM already.
        ValueError: for a number out of its range.
    """

    calls_twice = True  # the closure
    _step_supports_amp_scaling = False  # GradScaler calls step() without a closure

    def __init__(self, optimizer: Optimizer, rho: float = 0.05, adaptive: bool = False, eps: float = 1e-12) -> None:
        if not isinstance(optimizer, Optimizer) or isinstance(optimizer, SAM):
            raise TypeError(f"SAM wraps an instance of torch.optim.Optimizer, not {type(optimizer).__name__}")
        for name, value in {"rho": rho, "eps": eps}.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"SAM: {name}={value} must be a finite number >= 0")
        super().__init__(optimizer)
        self.rho, self.adaptive, self.eps = rho, adaptive, eps

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Gradients here, gradients at w + e(w), update of w; the loss of the first.

        The weights are put back as they were, not by subtraction, also if the second call raises. Where the norm of the
        gradients is zero or not finite, e is zero; without any gradient there is no second call.

        Raises:
            RuntimeError: without a closure.
        """
        if closure is None:
            raise RuntimeError(
                "SAM takes the gradients twice: call step(closure), the closure clears them, computes the loss, calls "
                "backward() and returns the loss (a gradient scaler, as of 16-mixed precision, cannot: use bf16-mixed)"
            )
        evaluate = torch.enable_grad()(closure)
        loss = evaluate()
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if params:
            weights = [_here(p.detach()) for p in params]
            before = [torch.empty_like(w) for w in weights]
            torch._foreach_copy_(before, weights)
            try:
                self._climb(params)
                evaluate()
            finally:
                with torch.no_grad():
                    torch._foreach_copy_(weights, before)
        self.base.step()
        return loss

    @torch.no_grad()
    def _climb(self, params: list[Tensor]) -> None:
        """Add e(w), without waiting for a GPU; what is alike is one vector, so that there are few kernels."""
        alike = defaultdict(list)
        for p in params:
            alike[type(p.grad), p.device, p.dtype].append(p)
        vectors = [(some, _vector(some, [p.grad for p in some]), self._relative(some)) for some in alike.values()]
        norms = [_norm(some, g if w is None else g * w, w is not None) for some, g, w in vectors]
        norm = torch.linalg.vector_norm(torch.stack([one.to(norms[0].device) for one in norms]))
        scale = self.rho / (norm + self.eps)
        for some, g, w in vectors:
            e = g.mul_(scale.to(g.device))
            if w is not None:
                e *= w.square_()
            e.nan_to_num_(0.0, 0.0, 0.0)  # not a number: the norm was not finite, or zero over zero
            weights = [_here(p.detach()) for p in some]
            ends = accumulate(w.numel() for w in weights)
            parts = [part_like(e, end - w.numel(), w) for w, end in zip(weights, ends, strict=True)]
            torch._foreach_add_(weights, parts)

    def _relative(self, params: list[Tensor]) -> Tensor | None:
        """|w|, to which e is relative; None where it is not."""
        return _vector(params, params).abs() if self.adaptive else None

    def __reduce__(self) -> Any:  # without a scheduler's `step`, which is bound to this very object
        return SAM, (self.base, self.rho, self.adaptive, self.eps)

    def __repr__(self) -> str:
        return f"SAM({self.base!r}, rho={self.rho}, adaptive={self.adaptive})"


def _here(t: Tensor) -> Tensor:
    """Of a DTensor what this process has."""
    return t.to_local() if hasattr(t, "to_local") else t


def _vector(params: list[Tensor], tensors: Sequence[Any]) -> Tensor:
    """A new vector of all entries that are here, each tensor's in the order of its parameter's memory."""
    orders = [by_stride(_here(p)) for p in params]
    parts = [at_least_float32(_here(t.detach())) for t in tensors]
    return torch.cat([part.permute(order).reshape(-1) for part, order in zip(parts, orders, strict=True)])


def _norm(params: list[Tensor], vector: Tensor, relative: bool) -> Tensor:
    """Of a vector; in float64 where there is one, in which no square overflows. Of DTensors that of all processes."""
    wide = torch.float32 if vector.device.type == "mps" else torch.float64
    if not hasattr(params[0].grad, "full_tensor"):
        norm: Tensor = torch.linalg.vector_norm(vector.abs(), dtype=wide)  # a modulus, of complex ones
        return norm
    sizes = [(at_least_float32(p.grad) * (at_least_float32(p) if relative else 1)).abs() for p in params]  # type: ignore[arg-type]
    return whole(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(s, dtype=wide) for s in sizes])))


def sam_agr(
    optimizer: Optimizer,
    rho: float = 0.05,
    adaptive: bool = False,
    eps: float = 1e-12,
    granularity: str = "tensor",
    compile: bool = False,
) -> SAM:
    """SAM round AGR: it climbs along the gradients, and AGR changes those that the update uses."""
    return SAM(AGR(optimizer, granularity, compile), rho, adaptive, eps)
