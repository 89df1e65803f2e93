"""Where programs run: one folder per backend."""
