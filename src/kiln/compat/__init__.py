"""Other frameworks' names for what Kiln has: `torch`."""
