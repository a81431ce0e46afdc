"""`make demo`: two spatial transformers learn to find two digits, from nothing but the digits' sum."""
