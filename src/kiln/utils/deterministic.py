"""The names of `torch.utils.deterministic`."""

fill_uninitialized_memory = True
"""Whether new tensors without values are filled where deterministic algorithms are asked for; theirs is zeroed memory or reused."""
