"""Pure crystals with free and with given cells: pretrained, force matching (the control), BPTT; errors on others."""
