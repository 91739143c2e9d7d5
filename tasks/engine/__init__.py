"""What every task shares: the contracts, configuration, training, checkpoints."""
