"""What goes over Graphs of calls."""
