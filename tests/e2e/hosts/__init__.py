"""Mail hosts as they are published, see README.md."""
