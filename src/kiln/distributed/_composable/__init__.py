"""Ways to spread modules over processes that compose: not built yet."""
