"""`python -m streaming_inference` is the command `streaming-inference`."""

from streaming_inference.cli import main

if __name__ == "__main__":
    main()
