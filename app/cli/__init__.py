"""The commands of `streaming-inference` that need the server's code. The others are in `streaming_inference.cli`."""
