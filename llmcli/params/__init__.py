"""Ground floor: what can be set, declared once. Standard library only."""
