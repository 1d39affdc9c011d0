"""HTTP to registries: connections, TLS, URLs, which host may see credentials, and what an error means."""
