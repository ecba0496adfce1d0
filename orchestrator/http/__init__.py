"""`bild serve`: the pair over HTTP, as OpenAI's clients expect it."""
