"""Scores in plain numpy, each with its interval."""

from luban.metrics.classify import classify_per_label, classify_scores
from luban.metrics.tag import tag_per_label, tag_scores

__all__ = ["classify_per_label", "classify_scores", "tag_per_label", "tag_scores"]
