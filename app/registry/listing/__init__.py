"""Lists: repositories and tags, by the distribution spec or by a vendor's own API, page by page.

listing.py        repositories: by the catalog, or by a vendor's API
pages.py          tags, and pages of any list
vendor_apis.py    repositories by vendors' own APIs; google_api.py: by Google's
digest_lists.py   lists that say the digests of all tags of a repository
"""
