"""Pretraining on labelled forces: where the models that come with this package were trained."""
