"""What sampling did, as colors, tables and pictures."""
