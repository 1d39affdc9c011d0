"""Lists: repositories and tags, by the distribution spec or by a vendor's own API, page by page."""
