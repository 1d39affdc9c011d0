"""Importers: configuration files of other tools, read as policies and registries.

Texts go in, values come out; nothing is read from disk, from the environment or from a registry, and nothing is stored.
Each reader lists what it could not carry over and where a carried rule behaves differently on purpose, with the place
it stands at.

    skopeo.py, regsync.py, image_syncer.py, dregsy.py, harbor.py, kubernetes.py, image_list.py   one reader a format
    document.py      YAML and JSON, bounded, with the line of each value
    shape.py         values of the kind that a format has in a place, and notes of those that are not
    result.py        what a reader makes: policies, registries, notes
    patterns.py      other tools' patterns of tags as matchers; dregsy_tags.py: those of dregsy
    intervals.py     other tools' schedules as cron expressions
"""
