"""Records a second from the broker to committed alerts, beside the bare client and the loops one writes instead."""
