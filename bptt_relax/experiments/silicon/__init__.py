"""Silicon defects: pretrained, force matching (the control), BPTT; errors on held-out defects."""
