"""Settings of image generation that exclude or need each other."""

from gvr_lightning.config.declarations import declared
from gvr_lightning.config.folder import chosen_by
from gvr_lightning.config.lookup import Config, get, kind
from gvr_lightning.config.ranges import is_number
from gvr_lightning.config.wording import show


def draws(config: Config) -> bool:
    """Whether the task is to draw images."""
    return bool(declared(get(config, "task"), "needs") == "images")


def task(config: Config) -> str:
    """As it is chosen."""
    return f"task={declared(get(config, 'task'), 'kind')}"


def class_logits(config: Config) -> str | None:
    """Distributions over classes are there only where there are classes."""
    penalty = get(config, "regularizer.penalty")
    if not draws(config) or not declared(penalty, "needs_classes"):
        return None
    name = chosen_by("regularizer", penalty["_target_"])
    return f"{task(config)}: {name} is of probabilities of classes, and the network gives images"


def generates(config: Config) -> str | None:
    """Only a diffusion model is sampled."""
    for group in ("sampler", "extractor"):
        if declared(get(config, "task"), "needs") == "classes" and get(config, group) is not None:
            return f"{group}: images are generated with task=ddpm only; leave {group} out, or add task=ddpm"
    return None


def pixels(config: Config) -> str | None:
    """Images are drawn in [-1, 1], so they are trained on in [-1, 1]."""
    if not draws(config):
        return None
    for name in ("mean", "std"):
        value = get(config, f"data.{name}")
        if value is None or (isinstance(value, list) and any(v != 0.5 for v in value)):
            shown = f"data.{name}={show(value)}"
            return f"{shown}: {task(config)} draws images in [-1, 1], so data.mean and data.std are [0.5]"
    return None


def sampling_steps(config: Config) -> str | None:
    """No more steps than timesteps."""
    steps, timesteps = get(config, "sampler.steps"), get(config, "task.noise.timesteps")
    if not (is_number(steps) and is_number(timesteps)) or steps <= timesteps:
        return None
    return f"sampler.steps={steps}: there are task.noise.timesteps={timesteps}, so steps must be <= that"


def beta_range(config: Config) -> str | None:
    """From less noise to more."""
    betas = get(config, "task.noise.beta_range")
    if not isinstance(betas, list) or len(betas) != 2 or betas[0] <= betas[1]:
        return None
    return f"task.noise.beta_range={show(betas)}: the first must not be larger than the second"


def scaled_betas(config: Config) -> str | None:
    """Only linear betas are scaled, and stay below 1."""
    noise = get(config, "task.noise") or {}
    if noise.get("scale_betas") is not True:
        return None
    if noise.get("beta_schedule") != "linear":
        return "task.noise.scale_betas=true: is of linear betas; add task.noise.beta_schedule=linear"
    timesteps, betas = noise.get("timesteps"), noise.get("beta_range")
    if not (is_number(timesteps) and isinstance(betas, list)) or betas[-1] * 1000 / timesteps < 1:
        return None
    return f"task.noise.scale_betas=true: with task.noise.timesteps={timesteps} the last beta would be 1 or more"


def quadratic(config: Config) -> str | None:
    """A spacing that diffusers' own schedulers do not have."""
    target = get(config, "sampler._target_")
    if get(config, "sampler.spacing") != "quadratic" or target == "gvr_lightning.diffusion.ddim.DDIM":
        return None
    return f"sampler.spacing=quadratic: {kind(config, 'sampler')} does not have it; choose sampler=ddim_published"


def tested_epochs(config: Config) -> str | None:
    """Accuracies are of classes."""
    every = get(config, "test_every_n_epochs")
    if every is None or not draws(config):
        return None
    return f"test_every_n_epochs={show(every)}: {task(config)} has no accuracy; set generation.score_every_n_epochs"


def first_weights(config: Config) -> str | None:
    """Weights that come from a folder are not initialised."""
    weights = get(config, "model.weights")
    if weights is None or get(config, "model.init") != "published":
        return None
    return f"model.init=published: the first weights are those of model.weights={show(weights)}; set model.init=default"


GENERATION = (
    *(class_logits, generates, pixels, sampling_steps, beta_range, scaled_betas),
    *(quadratic, first_weights, tested_epochs),
)
