"""A whole study by one plan: ``gvr-study``. Nothing here loads torch; the runs do, each in a process of its own."""
