"""ACProp: steps along the gradient, scaled by its centered variance as it was one step before."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

Group = dict[str, Any]
Tensors = list[Tensor]


class _Rule(NamedTuple):
    """One update: p -= rate * numerator / (sqrt(var) + eps), without the denominator where ``eps`` is None."""

    by_momentum: bool  # the numerator is the mean gradient, not the gradient
    rate: float
    eps: float | None


def _rule(t: int, group: Group) -> _Rule:
    """The update of step t = 1, 2, ..., by ``rectify`` as RAdam's (Liu et al. 2020, arXiv 1908.03265)."""
    lr, (beta1, beta2), eps, by_momentum = (group[key] for key in ("lr", "betas", "eps", "momentum_update"))
    of_mean = lr / (1 - beta1**t)
    rate = of_mean if by_momentum else lr
    descent = _Rule(True, of_mean, None)
    if t == 1:  # no variance yet
        return descent
    if not group["rectify"]:
        root = math.sqrt(1 - beta2 ** (t - 1))
        return _Rule(by_momentum, rate * root, eps * root)  # sqrt(var) / root + eps in one pass less
    longest = 2 / (1 - beta2) - 1
    n = longest - 2 * t * beta2**t / (1 - beta2**t)  # so many gradients does the average hold
    if n < 5:  # too few for a variance to go by
        return descent if group["degenerate_to_sgd"] else descent._replace(rate=0.0)
    trust = (n - 4) / (longest - 4) * (n - 2) / (longest - 2) * longest / n
    return _Rule(by_momentum, rate * math.sqrt((1 - beta2**t) * trust), eps)


def _single_tensor(t: int, group: Group, params: Tensors, grads: Tensors, means: Tensors, variances: Tensors) -> None:
    """Step t of parameters, given with their gradients, mean gradients and variances, tensor by tensor."""
    (beta1, beta2), decay, rule = group["betas"], group["weight_decay"], _rule(t, group)
    for p, g, mean, var in zip(params, grads, means, variances, strict=True):
        if decay and group["decoupled"]:
            p.mul_(1 - group["lr"] * decay)
        elif decay:
            g = g.add(p, alpha=decay)  # a new tensor: gradients stay as they are
        mean.lerp_(g, 1 - beta1)
        if t > 1:
            var.add_(group["eps"])  # for good: a constant gradient has no variance, but keeps its denominator
        numerator = mean if rule.by_momentum else g
        if rule.eps is None:
            p.add_(numerator, alpha=-rule.rate)
        else:
            p.addcdiv_(numerator, var.sqrt().add_(rule.eps), value=-rule.rate)
        residual = g - mean
        var.mul_(beta2).addcmul_(residual, residual, value=1 - beta2)  # only now: the next step divides by it


def _foreach(t: int, group: Group, params: Tensors, grads: Tensors, means: Tensors, variances: Tensors) -> None:
    """The same, operation by operation over all tensors of one device and dtype."""
    (beta1, beta2), decay, rule = group["betas"], group["weight_decay"], _rule(t, group)
    if decay and group["decoupled"]:
        torch._foreach_mul_(params, 1 - group["lr"] * decay)
    elif decay:
        grads = list(torch._foreach_add(grads, params, alpha=decay))
    torch._foreach_lerp_(means, grads, 1 - beta1)
    if t > 1:
        torch._foreach_add_(variances, group["eps"])
    numerators = means if rule.by_momentum else grads
    if rule.eps is None:
        torch._foreach_add_(params, numerators, alpha=-rule.rate)
    else:
        roots = torch._foreach_sqrt(variances)
        torch._foreach_add_(roots, rule.eps)
        torch._foreach_addcdiv_(params, numerators, roots, value=-rule.rate)
        del roots  # before the residuals take as much memory
    residuals = torch._foreach_sub(grads, means)
    torch._foreach_mul_(variances, beta2)
    torch._foreach_addcmul_(variances, residuals, residuals, value=1 - beta2)


class ACProp(Optimizer):
    """ACProp for dense real parameters; state in each parameter's own dtype, as torch's optimizers keep it.

    Source: Zhuang et al., "Momentum Centering and Asynchronous Update for Adaptive Gradient Methods" (NeurIPS 2021,
    arXiv 2110.05454). By default it does what the authors' code does: plain momentum SGD until RAdam's rectification
    trusts the variance, at step 6 by the default ``betas``, and ``eps`` added to the variance itself in every step.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: of the mean gradient and of the variance around it.
        eps: added to the variance, and to its root.
        weight_decay: times ``lr`` and the parameter off the parameter, or added to the gradient.
        decoupled: which of the two, the first by default.
        rectify: RAdam's variance rectification; without it, step 2 already divides.
        degenerate_to_sgd: what to do while the variance is not trusted: SGD with momentum, or nothing.
        momentum_update: step along the mean gradient instead of the gradient.
        foreach: one call per operation for all tensors; by default everywhere but on a CPU, whose cache they overflow.

    Raises:
        ValueError: for a number out of its range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        rectify: bool = True,
        degenerate_to_sgd: bool = True,
        momentum_update: bool = False,
        foreach: bool | None = None,
    ) -> None:
        for name, value in {"lr": lr, "eps": eps, "weight_decay": weight_decay}.items():
            if not value >= 0:
                raise ValueError(f"ACProp: {name}={value} must be >= 0")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"ACProp: betas={betas} must be two numbers in [0, 1)")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "decoupled": decoupled}
        defaults |= {"rectify": rectify, "degenerate_to_sgd": degenerate_to_sgd, "momentum_update": momentum_update}
        super().__init__(params, {**defaults, "foreach": foreach})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update what has a gradient, after calling the closure, if any; its loss. RuntimeError if one is sparse."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            alike = defaultdict(list)  # each parameter counts its own steps: some may have had gradients later
            for p in group["params"]:
                if p.grad is not None:
                    if p.grad.layout != torch.strided or p.is_complex():
                        raise RuntimeError("ACProp takes dense real gradients only")
                    state = self.state[p] or {"step": 0, **{k: torch.zeros_like(p) for k in ("exp_avg", "exp_avg_var")}}
                    self.state[p] = state
                    state["step"] += 1
                    alike[p.device, p.dtype, state["step"]].append((p, p.grad, state["exp_avg"], state["exp_avg_var"]))
            for (device, _, t), rows in alike.items():
                foreach = device.type != "cpu" if group["foreach"] is None else group["foreach"]
                (_foreach if foreach else _single_tensor)(t, group, *map(list, zip(*rows, strict=True)))
        return loss
