"""Feature extractors that every task can stand on."""
