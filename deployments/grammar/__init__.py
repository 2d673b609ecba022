"""Structured output: constraints become matchers. Used by the tokenizer, which refuses what can't be kept, and by the engine."""
