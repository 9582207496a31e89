"""Generative models of normal data, behind one contract. Knows nothing of Kafka or detection."""
