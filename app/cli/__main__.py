"""`python -m app.cli` is the command `streaming-inference`."""

from app.cli import main

if __name__ == "__main__":
    main()
