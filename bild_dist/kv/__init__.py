"""The KV cache: who holds which slot (integers) and what lies in it (tensors)."""
