"""Distortion, rate and BD-rate."""
