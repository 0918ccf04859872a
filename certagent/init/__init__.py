"""`certagent init`: what this host runs and what DNS says of it, made into a config that says why."""
