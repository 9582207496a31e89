"""What the dashboard costs: whoever looks at it, and the daemon that serves it."""
