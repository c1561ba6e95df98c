"""What a gradient through a relaxation costs, strategy by strategy, next to what else people use.

``python -m benchmarks --help`` says how to run it. Whatever is compared is measured side by side, in turns, in one
run: read the ratios. Absolute times belong to the machine of that day.
"""
