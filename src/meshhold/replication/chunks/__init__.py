"""The copies of chunks: who is to keep them, how they get there and back."""
