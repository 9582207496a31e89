"""What the dashboard remembers: of this replica what it counted, of the detector what its topics tell."""
