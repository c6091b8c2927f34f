"""Networks, adapters, and their conversion from and to Hugging Face."""
