"""Models in one file of the format GGUF: what the file says, its tokenizer, its weights. The format is llama.cpp's.

transformers makes the tokenizer and the weights. What it leaves out of a file, or guesses, is added or refused here.
"""
