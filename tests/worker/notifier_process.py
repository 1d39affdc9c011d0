"""A postman in a process of its own, for a test to kill: takes a database's URL and the key its secrets open with."""

import asyncio
import sys

from app.net.address_guard import AddressRules
from app.security import Sealer
from app.store.db.database import Database
from app.webhooks.mailer import Mailer
from app.webhooks.outbound import Outbound
from app.worker.notifier import Notifier
from tests.worker.house import now


async def main(url: str, key: str) -> None:
    outbound = Outbound(AddressRules(), private_hosts=["127.0.0.1"])
    await Notifier(Database(url), Sealer([key]), outbound, mailer=Mailer(None), clock=now).run(asyncio.Event())


asyncio.run(main(*sys.argv[1:]))
