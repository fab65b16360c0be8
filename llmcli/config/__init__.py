"""Where settings come from: the configuration file, the environment, presets and characters."""
