"""What programs need while they run: threads, memory, replay."""
