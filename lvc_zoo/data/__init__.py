"""Readers, writers and clip datasets."""
