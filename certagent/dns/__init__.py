"""DNS: reading it everywhere, and the providers that write it."""
