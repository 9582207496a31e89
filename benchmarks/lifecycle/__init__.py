"""Whether a detector that retrains itself can be trusted to."""
