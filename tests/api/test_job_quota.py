"""The job quota: a key has so many jobs that are not done, and is told when to come again for more."""

import httpx

from tests.api.conftest import SHORT, Serve

QUOTA = 3


async def test_a_key_has_so_many_jobs_and_others_as_many(serve: Serve) -> None:
    async with serve(job_quota=QUOTA, unregistered_hosts=("allow",)) as api:
        admin = await api.make_key("admin")
        api.client.headers.update(admin)
        one, other = await api.make_key("submit", name="one"), await api.make_key("submit", name="other")

        async def submit(key: dict[str, str], **headers: str) -> httpx.Response:
            return await api.client.post("/v1/jobs", json=SHORT, headers=key | headers)

        named = {"Idempotency-Key": "first"}
        jobs = [
            (await submit(one, **named)).json()["id"],
            *[(await submit(one)).json()["id"] for _ in range(QUOTA - 1)],
        ]
        refused = await submit(one)
        assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
        assert int(refused.headers["Retry-After"]) > 0
        assert f"{QUOTA} jobs" in refused.json()["detail"]
        again = await submit(one, **named)
        assert (again.status_code, again.json()["id"]) == (202, jobs[0])
        assert (await submit(other)).status_code == 202
        retried = await api.client.post(f"/v1/jobs/{jobs[0]}/cancel", headers=one)
        assert retried.status_code == 202
        while (await submit(one)).status_code == 429:  # they are counted once a second
            pass
        assert (await api.client.post(f"/v1/jobs/{jobs[0]}/retry", headers=one)).json()["code"] == "quota_exceeded"
        lines = {"format": "image-syncer", "images": {f"docker.io/library/a{n}": "r.example.com/a" for n in range(9)}}
        assert (await api.client.post("/v1/policies/import", json=lines, headers=admin)).status_code != 429


async def test_who_has_no_key_has_no_quota(serve: Serve) -> None:
    async with serve(job_quota=1) as api:
        for _ in range(3):
            await api.submit()
