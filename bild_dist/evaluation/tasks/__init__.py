"""Tasks: prompts with references, from corpora by name, from the library `datasets`, from files."""
