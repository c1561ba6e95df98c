"""How much the result depends on the set-up of the relaxation and of the training, and where it breaks."""
