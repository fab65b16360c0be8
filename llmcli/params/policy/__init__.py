"""Temperature policies: what they are, how they are written, and the pure functions behind them."""
