"""Scores in plain numpy, each with its interval."""
