"""Authentication to registries: credentials, `WWW-Authenticate` challenges, bearer tokens by scope."""
