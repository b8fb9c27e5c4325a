"""New keywords from a few recordings, on the device: no training, no PyTorch."""
