"""Everything that touches a broker or bytes. Knows nothing of models or detection."""
