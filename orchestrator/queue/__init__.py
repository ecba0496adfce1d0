"""The queue backend: jobs from a message broker, texts from the decoder, and none is lost."""
