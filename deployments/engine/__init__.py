"""The inference engine: scheduling, KV memory, sampling and the step loop over transformers models. Knows no
ray, no HTTP.
"""
