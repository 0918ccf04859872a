"""Pure values that edges produce: DNS answers, certificate chains, moments, and what is unknown."""
