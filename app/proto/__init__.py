"""The service over gRPC as protocol buffers. `generation.proto` is written by hand; `make proto` makes the rest from it."""
