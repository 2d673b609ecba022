"""Wire formats: frames to bytes and back, without any I/O."""
