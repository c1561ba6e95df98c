"""Fine-tuning a pretrained potential on relaxations, from data to results: what experiments and the command line run.

A run goes to a folder of its own, shows progress, can be killed and resumed, and never writes over anything.
"""
