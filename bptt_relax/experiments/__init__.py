"""Experiments: runnable, resumable, each with the same four files (__main__, config, run, figures)."""
