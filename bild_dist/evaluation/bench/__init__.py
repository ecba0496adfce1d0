"""`bild bench`: speed against peers, in one command. Starts in `main.py`."""
