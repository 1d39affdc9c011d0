"""Tables about destinations: what is known of them beyond the digests of their tags."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.declarative import Base


class DestinationNoteRow(Base):
    """Something known of a repository that images are copied to, or of one image there."""

    __tablename__ = "destination_notes"

    host: Mapped[str] = mapped_column(Text, primary_key=True)
    repository: Mapped[str] = mapped_column(Text, primary_key=True)
    digest: Mapped[str] = mapped_column(String(135), primary_key=True)
    """The image's; empty for the repository itself."""
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
    """What belongs to the kind: a fingerprint, or nothing."""
    noted_at: Mapped[datetime] = mapped_column(index=True)


class PlannedBlobRow(Base):
    """A blob that a plan counts as one to be sent, and for which of its images; not needed when the plan is done."""

    __tablename__ = "planned_blobs"

    key: Mapped[bytes] = mapped_column(LargeBinary(16), primary_key=True)
    """A digest of the job, the place it is sent to once, and the blob."""
    owner: Mapped[bytes] = mapped_column(LargeBinary(16))
    """A digest of the image's destination."""
    claimed_at: Mapped[datetime] = mapped_column(index=True)
