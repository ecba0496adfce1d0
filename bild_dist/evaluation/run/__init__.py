"""`bild eval`: one setting on one task, with the large model alone measured beside it."""
