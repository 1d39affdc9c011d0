"""The words of the service, without anything around them."""
