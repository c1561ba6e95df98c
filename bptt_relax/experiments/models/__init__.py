"""Silicon defects over several pretrained models: does what BPTT gains depend on where it starts?"""
