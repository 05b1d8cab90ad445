"""Networks from elsewhere and for elsewhere."""
