"""Responses from prompts."""
