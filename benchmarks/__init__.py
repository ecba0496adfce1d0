"""Measurements that are committed with their commands. `make bench` makes them all again."""
