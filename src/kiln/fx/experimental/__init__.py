"""What PyTorch keeps for trials, and programs use."""
