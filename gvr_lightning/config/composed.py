"""A configuration as it is composed from overrides, resolved but for what only a job knows."""

from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.values import resolve


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """Of overrides that have passed the check."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        whole = compose("config", list(overrides), return_hydra_config=True)
    config: Any = OmegaConf.to_container(whole, resolve=False)
    return resolve({key: value for key, value in config.items() if key != "hydra"})
