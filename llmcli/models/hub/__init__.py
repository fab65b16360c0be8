"""The hub: what it says, what it gave, and how that comes and lies here."""
