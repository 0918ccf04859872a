"""What people and programs read: status, steps, findings, log lines."""
