"""`bild plan`: what a pair of models is predicted to bring, and what to do with it."""
