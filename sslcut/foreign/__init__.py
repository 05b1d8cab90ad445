"""Networks from elsewhere, and for elsewhere: files of other projects, models by name, and what others read."""
