"""Generated from proto/worker.proto by proto/generate.py. Do not edit."""
