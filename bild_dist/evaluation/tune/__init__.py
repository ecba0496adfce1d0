"""`bild tune`: the fastest setting whose quality stays above a floor."""
