"""Names of PyTorch's own tests that programs import."""
