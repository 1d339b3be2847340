"""Luban: from a labelled file to a small, fast, watched model in production."""
