"""The page in the browser. Nothing in here reaches torch, not even through another module."""
