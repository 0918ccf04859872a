"""Measurements, made on the lab's real servers. `renew`: one certificate, beside other clients. `startup`: commands."""
