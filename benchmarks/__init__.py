"""Kiln beside its peers on the same work: ratios, measured interleaved in one run."""
