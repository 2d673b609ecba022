"""The embedded chat model: where its files are.

`MODEL_DIR` is an ordinary Hugging Face model folder. Importing this package costs nothing;
the scripts beside it (corpus, train, evaluate) are what made the files.
"""

from pathlib import Path

MODEL_DIR: Path = Path(__file__).resolve().parent / "data"
