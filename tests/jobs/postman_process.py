"""A postman in a process of its own, for a test to kill: takes a database's URL and the key its secrets open with."""

import asyncio
import sys

from app.hooks.outbound import Outbound
from app.jobs.deliveries import Postman
from app.security import AddressRules, Sealer
from app.store.database import Database
from tests.jobs.house import now


async def main(url: str, key: str) -> None:
    outbound = Outbound(AddressRules(), private_hosts=["127.0.0.1"])
    await Postman(Database(url), Sealer([key]), outbound, clock=now).run(asyncio.Event())


asyncio.run(main(*sys.argv[1:]))
