"""`bild top`: a live view of running services, read from their pages of metrics."""
