"""Entropy models and entropy coding."""
