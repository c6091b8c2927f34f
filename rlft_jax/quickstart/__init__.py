"""The whole loop in minutes."""
