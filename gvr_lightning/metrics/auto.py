"""The extractor that suits the images, if none is named."""

from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.metrics.extractor import Extractor

LARGE = 32  # pixels, from which on colour images are what Inception was made for


def auto(data: ViewsDataModule, cache_dir: str | None = None) -> Extractor:
    """Inception for colour images of 32 pixels and more, as published; else a classifier trained on the data itself.

    Args:
        data: the images.
        cache_dir: where weights are kept.
    """
    from gvr_lightning.metrics.classifier import classifier
    from gvr_lightning.metrics.inception import inception

    channels, height, width = data.image_shape
    factory = inception if channels == 3 and min(height, width) >= LARGE else classifier
    return factory(data, cache_dir=cache_dir)
