"""Experiments: runnable, resumable, each with the same files (__main__, config, run)."""
