"""Pretrained bases, heads, the processor and checkpoints."""
