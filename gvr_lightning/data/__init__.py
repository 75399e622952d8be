"""Where images come from: the sources, augmentation, label noise and the DataModule."""
