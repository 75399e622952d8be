"""Several processes: the rows that each has, the means over all, how they start and end."""
