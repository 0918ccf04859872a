"""Mail servers: where files go, how they are reloaded, and the probe that proves what is served."""
