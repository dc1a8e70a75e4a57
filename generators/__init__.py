"""A deterministic world of creators and fans: what the platforms would log, made from a seed."""
