"""Temperature policies: their data, their grammar, and the pure functions that compute a temperature."""
