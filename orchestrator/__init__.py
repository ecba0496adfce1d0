"""The policy between the two models: sessions, connections, processes, and the command line."""
