"""One run put together: what it starts from, learns from, measures and leaves behind."""
