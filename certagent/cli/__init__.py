"""The commands and their exit statuses; one file per group of commands."""
