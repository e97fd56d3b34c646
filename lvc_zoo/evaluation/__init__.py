"""Evaluation under stated test conditions."""
