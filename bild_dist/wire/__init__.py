"""Messages as bytes: protobuf for gRPC, msgpack for ZeroMQ."""
