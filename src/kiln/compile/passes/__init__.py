"""Passes: functions from Graph to Graph, listed in order in `kiln.compile.pipeline`."""
