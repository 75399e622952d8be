"""Opens a set of the ``datasets`` library: of the Hugging Face hub, or from local files. No code of a set is run."""

import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gvr_lightning.data.hub_modes import offline, quiet
from gvr_lightning.errors import UserError

BUILDERS = ("arrow", "cache", "imagefolder", "parquet", "webdataset")  # formats, of the library, that hold images
FORMATS = "datasets.packaged_modules."
FILES = {".parquet": "parquet", ".arrow": "arrow"}
SAVED = ("dataset_dict.json", "state.json")  # what ``save_to_disk`` leaves
ASKED = 10  # seconds for the hub's first answer

Parts = dict[str, Any]  # a datasets.Dataset for each split's name


def require_datasets() -> None:
    """Raises `UserError` without the library."""
    if find_spec("datasets") is None:
        raise UserError("data=huggingface needs datasets: pip install datasets")


def open_set(path: str, subset: str | None, revision: str | None, cache_dir: Path) -> Parts:
    """All splits of a set, whose images stay encoded.

    Args:
        path: a local file or folder, or else a name on the hub.
        subset: which of its configurations; None for the only one.
        revision: a commit, tag or branch of the hub.
        cache_dir: for what is made of local files; of what is downloaded the library has its own.

    Raises:
        UserError: for what is not there or no image set, and without a network.
    """
    local = Path(path).expanduser().absolute()
    if local.exists() and revision is not None:
        raise UserError(f"data.revision={revision}: {local} is a local set, which has none; leave it out")
    saved = any((local / name).is_file() for name in SAVED)
    if saved and subset is not None:
        raise UserError(f"data.subset={subset}: {local} is a single saved set; leave it out")
    with quiet():
        import datasets

        if saved:
            found = _told(path, lambda: datasets.load_from_disk(str(local), keep_in_memory=False))
        elif local.exists():
            found = _told(path, lambda: _built(_of_files(local, subset, cache_dir)))
        else:
            found = _of_hub(path, subset, revision)
    return dict(found) if isinstance(found, dict) else {"train": found}


def _of_files(local: Path, subset: str | None, cache_dir: Path) -> Any:
    import datasets

    if local.is_dir():
        return datasets.load_dataset_builder(str(local), name=subset, cache_dir=str(cache_dir))
    if local.suffix not in FILES:
        raise UserError(f"data.path={local}: a file is a {' or '.join(FILES)}; of others give the folder")
    files = {"train": str(local)}
    return datasets.load_dataset_builder(FILES[local.suffix], name=subset, data_files=files, cache_dir=str(cache_dir))


def _built(builder: Any) -> Any:
    """The splits, where the format is one that holds images and runs nothing."""
    ours = (kind.__module__ for kind in type(builder).__mro__)  # the first is a subclass that is made for this set
    kind = next((name for name in ours if name.startswith(FORMATS)), "").rpartition(".")[2]
    if kind not in BUILDERS:
        raise UserError(f"its files are {kind or 'code'}, not images, parquet or arrow")
    builder.download_and_prepare()
    return builder.as_dataset()


def _of_hub(path: str, subset: str | None, revision: str | None) -> Any:
    """A set of the hub; without a network what an earlier run has downloaded."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    way_out = "give its name on the hub as <owner>/<name>, or a local folder or file"
    try:
        info = HfApi().dataset_info(path, revision=revision, timeout=ASKED)  # the library would ask for half a minute
    except ValueError as error:
        raise UserError(f"data.path={path}: there is no such file, and it is no name on the hub; {way_out}") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = "" if revision is None else f" at data.revision={revision}"
        said = f"the hub has no such set{at}, or does not show it to you ({_line(error)})"
        raise UserError(f"data.path={path}: {said}; {way_out}, or log in by hf auth login") from error
    except Exception as error:  # of whichever of the hub's networking libraries it is
        here = f"data.path={path}: there is no such file, and the hub cannot be reached ({_line(error)})"
        return _downloaded(path, subset, revision, here)
    print(f"data: {path} of the hub, revision {info.sha}; what is not here yet is downloaded", file=sys.stderr)
    return _told(path, lambda: _built(datasets.load_dataset_builder(path, name=subset, revision=revision)))


def _downloaded(path: str, subset: str | None, revision: str | None, complaint: str) -> Any:
    """What the library has kept of a set of the hub."""
    import datasets

    try:
        with offline():
            builder = datasets.load_dataset_builder(path, name=subset)
            if revision not in (None, builder.hash):
                raise ValueError("it is of another revision")
            found = _built(builder)
    except Exception as error:
        raise UserError(f"{complaint}: check the network, or give a local folder or file") from error
    print(f"data: the hub cannot be reached; what was downloaded of {path} before is used", file=sys.stderr)
    return found


def _told(path: str, work: Callable[[], Any]) -> Any:
    """What the work gives; its complaints, of one line, with the way out where it is known."""
    try:
        return work()
    except UserError as error:
        said = str(error)
        raise UserError(said if said.startswith("data.") else f"data.path={path}: {said}") from error
    except Exception as error:
        cause = error.__cause__ or error  # the library's own say that something failed, and not what
        said = f"{_line(error)}{'' if cause is error else f' ({_line(cause)})'}"
        if "scripts are no longer supported" in said:
            instead = "take a set of parquet files; the hub has one of many at data.revision=refs/convert/parquet"
            raise UserError(f"data.path={path}: the set has code of its own, which is never run: {instead}") from error
        if names := re.search(r"(?:configs|Available): \[(.*?)\]", str(error)):
            raise UserError(f"data.path={path}: set data.subset to one of {names[1]}") from error
        raise UserError(f"data.path={path}: cannot be read: {said}") from error


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
