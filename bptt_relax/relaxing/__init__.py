"""Relaxing the structures of files: what ``bptt-relax relax`` does."""
