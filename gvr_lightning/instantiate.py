"""Objects from a configuration's nodes."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf

from gvr_lightning.config.moved import current
from gvr_lightning.errors import TrainingError, UserError

LONGEST = 300  # characters of somebody else's message
SAYS_ALL = (ValueError, MisconfigurationException, ImportError)  # errors whose message is meant for a reader


def make(node: Any, key: str, wanted: type | None = None, **arguments: Any) -> Any:
    """``instantiate``, every complaint of which is one line with the configuration's key.

    Args:
        node: with a ``_target_``, or None.
        key: of the node.
        wanted: what it has to give.
        arguments: further ones.

    Raises:
        UserError: if the target refuses its arguments or fails, or gives something else.
    """
    if node is None:
        return None
    plain: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    with guarded(key):
        made = instantiate(current(plain), _convert_="all", **arguments)
    if wanted is not None:
        require_kind(made, wanted, f"{key}._target_={plain.get('_target_')}")
    return made


def require_kind(made: Any, wanted: type, what: str) -> None:
    """Refuse what is of another kind than is needed.

    Raises:
        UserError: saying what it is.
    """
    if not isinstance(made, wanted):
        needed = "something that can be called" if wanted.__name__ == "Callable" else f"a {wanted.__name__}"
        raise UserError(f"{what}: gives a {type(made).__name__}, not {needed}")


def calling(function: Any, key: str) -> Any:
    """The function, every complaint of which is one line with the configuration's key; None for none."""
    if function is None:
        return None

    def call(*arguments: Any, **options: Any) -> Any:
        with guarded(key):
            return function(*arguments, **options)

    return call


@contextmanager
def guarded(key: str) -> Iterator[None]:
    """Where code of somebody else's runs, which raises what it likes: one line with the key.

    Raises:
        UserError: for any exception but those that the command line has words for.
    """
    try:
        yield
    except Exception as error:
        cause = (isinstance(error, InstantiationException) and error.__cause__) or error
        if isinstance(cause, UserError | TrainingError | OSError):
            raise cause from None
        raise complaint(key, cause) from error


def complaint(key: str, cause: BaseException) -> UserError:
    """One line with the key of what somebody else's code has raised; the traceback, where it helps, is its details."""
    said = " ".join(str(cause).split())
    if isinstance(cause, SAYS_ALL) and said:
        return UserError(f"{key}: {said}")
    told = UserError(f"{key}: {type(cause).__name__}: {said[:LONGEST]}")
    told.details = "".join(traceback.format_exception(cause))
    return told
