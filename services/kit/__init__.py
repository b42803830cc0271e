"""The service kit: what the four services share and no domain. Each module names one thing; none imports a service."""
