"""Examples the OpenAPI document shows; a test holds that each is what the service would take or give."""

from __future__ import annotations

from typing import Any

SHORT_FORM: dict[str, Any] = {"source": "docker.io/library/redis:7", "destination": "registry.example.com/mirror/redis"}
FULL_FORM: dict[str, Any] = {
    "rules": [
        {
            "source": "old.azurecr.io/**",
            "destination": ["registry.example.com/mirror/{repository}"],
            "repositories": {"include": ["team-a/**"], "exclude": ["**/scratch"]},
            "tags": {"include": ["v*", r"/^release-\d+$/", "semver:>=1.2 <2"], "exclude": ["*-rc*"], "newest": 10},
            "platforms": ["linux/amd64", "linux/arm64"],
            "platform_mode": "sparse",
        }
    ],
    "options": {"referrers": True, "overwrite": "always"},
    "labels": {"ticket": "OPS-1234"},
}
PLAN_FORM: dict[str, Any] = {"plan": "019ab2c4-d5e6-7f80-91a2-b3c4d5e6f708", "labels": {"ticket": "OPS-1234"}}
JOB: dict[str, Any] = {
    "id": "019ab2c4-d5e6-7f80-91a2-b3c4d5e6f708",
    "kind": "copy",
    "state": "running",
    "done": False,
    "cancel_requested": False,
    "trigger": {"type": "api", "event_id": None},
    "policy": None,
    "plan": None,
    "retry_of": None,
    "priority": "normal",
    "labels": {"ticket": "OPS-1234"},
    "notify": None,
    "created_by": "ci",
    "request": {
        "rules": [
            {
                "source": "docker.io/library/redis:7",
                "destination": ["registry.example.com/mirror/redis"],
                "repositories": {"include": [], "exclude": []},
                "tags": {
                    "include": [],
                    "exclude": [],
                    "always": [],
                    "newest": None,
                    "newest_by": "version",
                    "min_matches": None,
                },
                "platforms": [],
                "platform_mode": "auto",
                "artifact_types": {"include": [], "exclude": []},
                "created_since": None,
                "min_age": None,
                "mapping": {"strip_prefix": None, "substitute": []},
            }
        ],
        "options": {
            "referrers": True,
            "digest_tags": True,
            "companions": "always",
            "force": False,
            "overwrite": "always",
            "foreign_layers": "skip",
            "max_bytes_per_second": None,
            "fail_fast": False,
        },
    },
    "progress": {
        "images": {
            "total": 1,
            "queued": 0,
            "running": 1,
            "copied": 0,
            "planned": 0,
            "up_to_date": 0,
            "failed": 0,
            "cancelled": 0,
        },
        "blobs": {"present": 2, "mounted": 0, "transferred": 5},
        "bytes": {
            "total": 53477376,
            "done": 31457280,
            "to_send": 22020096,
            "transferred": 23068672,
            "per_second": 41943040,
        },
        "planned": True,
    },
    "totals": {"copy": 0, "update": 0, "up_to_date": 0, "refused": 0, "failed": 0, "companions": 0},
    "selection": [
        {
            "rule": 0,
            "kind": "tag",
            "taken": True,
            "reason": "named",
            "count": 1,
            "first": ["docker.io/library/redis:7"],
        }
    ],
    "explanation": None,
    "error": None,
    "warnings": [],
    "waiting_for": None,
    "created_at": "2026-11-23T08:31:02Z",
    "started_at": "2026-11-23T08:31:02Z",
    "finished_at": None,
    "version": 7,
}
IMAGE: dict[str, Any] = {
    "id": "019ab2c4-d5e6-7f80-91a2-b3c4d5e6f708-0",
    "kind": "image",
    "rule": 0,
    "source": "docker.io/library/redis:7",
    "destination": "registry.example.com/mirror/redis:7",
    "state": "copied",
    "action": "copy",
    "reason": None,
    "digest": "sha256:e25cd2645ee52a743b9bcad840273e6f31c0e3908e4eaca90229d5098bfa6df1",
    "destination_digest": "sha256:e25cd2645ee52a743b9bcad840273e6f31c0e3908e4eaca90229d5098bfa6df1",
    "previous_digest": None,
    "media_type": "application/vnd.oci.image.index.v1+json",
    "platforms": ["linux/amd64", "linux/arm64/v8"],
    "companions": {"count": 0, "first": []},
    "blobs": {"present": 2, "mounted": 0, "transferred": 12},
    "bytes": {"total": 104334882, "done": 104334882, "to_send": 0, "transferred": 98334112, "per_second": 0},
    "attempts": 1,
    "error": None,
    "started_at": "2026-11-23T08:31:03Z",
    "finished_at": "2026-11-23T08:31:19Z",
}
IMAGE_LOG: dict[str, Any] = {
    "steps": [
        {
            "at": "2026-11-23T08:31:03Z",
            "event": "compared",
            "details": {
                "action": "copy",
                "source_digest": "sha256:e25cd2645ee52a743b9bcad840273e6f31c0e3908e4eaca90229d5098bfa6df1",
                "was": None,
            },
        },
        {
            "at": "2026-11-23T08:31:04Z",
            "event": "blob_transferred",
            "details": {
                "digest": "sha256:a378f10b3218f5a4c0bcd7fdd5cd2ee4d1a4c4d7bd0b5ef0d8bd4d2b5a0b4a1e",
                "bytes": 98334112,
            },
        },
        {
            "at": "2026-11-23T08:31:09Z",
            "event": "attempt_failed",
            "details": {
                "step": "put manifest 7",
                "code": "manifest_rejected",
                "message": "registry.example.com: MANIFEST_INVALID",
            },
        },
    ]
}
