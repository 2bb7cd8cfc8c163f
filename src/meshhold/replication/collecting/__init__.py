"""What nothing refers to, and what brings an index back."""
