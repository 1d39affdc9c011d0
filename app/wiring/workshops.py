"""The planner and copier that units work with, and the limit that all units of one job share."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakValueDictionary

from app.domain.job import Job
from app.domain.registry import RegistryEntry
from app.jobs.workshop import HandsOn, Workshop
from app.registry.pool import ClientPool
from app.sync.copier import Copier
from app.sync.known_blobs import KnownBlobs
from app.sync.open_uploads import UploadNotes
from app.sync.planner import Planner
from app.sync.throttle import Throttle


class Workshops:
    """Opens workshops over what the process holds: connections, what is known of blobs, notes of open uploads."""

    def __init__(self, pool: ClientPool, blobs: KnownBlobs, notes: UploadNotes) -> None:
        self._pool = pool
        self._blobs = blobs
        self._notes = notes
        self._throttles: WeakValueDictionary[str, Throttle] = WeakValueDictionary()
        """By job; each lasts as long as a copier of that job."""

    def open(self, job: Job, entries: tuple[RegistryEntry, ...], hands_on: HandsOn) -> Workshop:
        """Open a workshop for one unit of a job."""
        clients = self._pool.clients(entries)
        notes = replace(self._notes, hands_on=hands_on)
        copier = Copier(clients, self._blobs, throttle=self._throttle(job), notes=notes)
        return Workshop(Planner(clients).plan, copier.copy)

    def _throttle(self, job: Job) -> Throttle | None:
        rate = job.request.options.max_bytes_per_second
        if rate is None:
            return None
        throttle = self._throttles.get(job.id)
        if throttle is None:
            throttle = self._throttles[job.id] = Throttle(rate)
        return throttle
