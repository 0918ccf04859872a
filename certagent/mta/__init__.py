"""Mail servers: where files go, how they are reloaded, and what they serve now."""
