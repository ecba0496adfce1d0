"""The decoding policy as a pure state machine: no torch, no await, no clock, no socket."""
