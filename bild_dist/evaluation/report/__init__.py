"""`bild report`: the paper's tables and figures for records of runs, as one page and one text."""
