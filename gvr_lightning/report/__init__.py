"""Any folder of runs as one page: ``gvr-report``. Nothing here loads torch."""
