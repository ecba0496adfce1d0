"""Texts to train and to measure on, made from what a package registry carries."""
