"""What benchmarks/authentication.py measures: the messages, and each contender's way of doing the job."""
