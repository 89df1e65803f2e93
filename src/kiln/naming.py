"""The name by which this process knows Kiln: reprs and the names of types begin with it."""

name = "kiln"
"""`kiln`; `torch` where PyTorch programs run (`kiln.compat.torch`), which compare such texts."""
