"""`bild align`: a small model learns to write what the large one writes (paper, 3.5.1 and 4.4)."""
