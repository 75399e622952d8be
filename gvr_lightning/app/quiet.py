"""What Lightning and others say that says nothing here."""

import logging
import warnings

SILENCED = (
    ".*smaller than the logging interval.*",  # a short epoch has its own row
    "Total length of .* across ranks is zero.*",  # a run without a validation part
    ".*does not have many workers.*",  # the loaders hand out numbers; workers would only slow them down
    ".*dataloader is not resumable.*",  # it is: it starts at the batch that the loop says
    "It is recommended to use .*sync_dist=True.*",  # what is logged is the same on every process
    ".*could be decompression bomb.*",  # large images are what people have; beyond Pillow's own limit one is named
    "GPU available but not used.*",  # trainer.accelerator=cpu says so
    ".*in eval mode at the start of training.*",  # what is frozen stays so
    ".*treespec, LeafSpec.*",  # Lightning's own use of a deprecated torch name
)


def quiet() -> None:
    """Lightning's hints and the warnings that say nothing here; what matters the run says itself."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
