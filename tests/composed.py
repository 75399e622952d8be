"""Hydra composes each choice of options once: most of what checking a command line takes is reading the same files."""

from collections.abc import Iterator
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from omegaconf import OmegaConf

_ORIGINAL = Hydra.compose_config
_KEPT: dict[tuple[str, ...], Any] = {}


@pytest.fixture
def composed_once() -> Iterator[None]:
    """For tests that check many command lines with the same options and never change the files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "compose_config", _remembered)
        yield


def _remembered(self: Hydra, config_name: str, overrides: list[str], *args: Any, **kwargs: Any) -> Any:
    key = (config_name, *overrides)
    if key not in _KEPT:
        _KEPT[key] = _ORIGINAL(self, config_name, overrides, *args, **kwargs)
        OmegaConf.set_readonly(_KEPT[key], True)  # who would change it hears so
    return _KEPT[key]
