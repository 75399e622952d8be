"""``python -m gvr_lightning`` is ``gvr-train``."""

from gvr_lightning.app.train import main

if __name__ == "__main__":
    main()
