"""`bild report`: the paper's tables and figures for records of runs and sweeps, as one page and one text."""
