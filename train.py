"""Train from a checkout: ``python train.py --help``. The installed package offers the same as ``gvr-train``."""

from gvr_lightning.app.train import main

if __name__ == "__main__":
    main()
