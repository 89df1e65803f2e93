"""The names of `torch._higher_order_ops.associative_scan`."""

from ..compile.scans import associative_scan as associative_scan
