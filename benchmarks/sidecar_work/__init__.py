"""What benchmarks/sidecar.py measures: the messages, the program, the bare program, and the disk they work on."""
