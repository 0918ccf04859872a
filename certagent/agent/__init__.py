"""The reconcile loop of one subject, its edges and wiring, and the daemon around it."""
