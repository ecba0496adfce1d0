"""One process, one model, one engine thread."""
