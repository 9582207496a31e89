"""`offnominal demo`: the whole product on real telemetry, on one machine, in a minute."""
