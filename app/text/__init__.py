"""From token ids to the text that may leave: detokenizing, stop strings, log probabilities as text."""
