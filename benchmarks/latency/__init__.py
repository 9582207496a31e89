"""How long an alert takes, beside the bare round trip on the same client and broker; and how long a start takes."""
