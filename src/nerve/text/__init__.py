"""From text to tokens, and from scores to entities: pure functions but for the tokenizer's cache."""
