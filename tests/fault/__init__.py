"""Every durable step killed and failed: nothing lost, nothing doubled."""
