"""logger=wandb: every job is a run of Weights & Biases, closed with the job and gone on with when it is resumed."""
