"""Augmenters: one method a file."""
