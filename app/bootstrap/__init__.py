"""Composition root: settings become live services here, for every process.

service.py            what the API, the command line and the worker use, and the one factory of it
startup.py            what is done before the first request: schema, first key, secret keys
registry_settings.py  the settings of requests to registries, from those of the service
mail.py               the connection to the mail server, from the settings
"""
