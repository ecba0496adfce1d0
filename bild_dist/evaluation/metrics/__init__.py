"""How good texts are: marks of single texts whose sums or means are the figure, with intervals."""
