"""Services that keep registers and chunks on their replicas."""
