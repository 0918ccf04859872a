"""Steps become events here: the only place that changes the world."""
