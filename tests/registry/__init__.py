"""The road, against real registries and against a fake one with every quirk."""
