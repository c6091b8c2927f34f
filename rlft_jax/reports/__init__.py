"""Pages and pictures for people to read."""
