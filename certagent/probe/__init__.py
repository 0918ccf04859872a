"""What a service serves: STARTTLS and handshakes."""
