"""Strict stand-ins for the HTTP APIs of DNS services, each written from the service's public description.

None of them imports anything of certagent. What a service would refuse, they refuse; a request that its description
does not have is answered with 418, which no provider understands.
"""
