"""What a config may say, and what is wrong with it."""
