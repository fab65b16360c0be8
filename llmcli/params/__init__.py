"""All settings, each declared once. Standard library only."""
