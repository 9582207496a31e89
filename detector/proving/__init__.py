"""What a version has to show before it serves, and for a while after."""
