"""What `torch.distributed.algorithms` holds; of one process, recomputation of activations."""
