"""Labelled files: read, clean, check, split and write them."""
