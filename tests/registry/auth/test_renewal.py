"""Logins that end: renewed ahead of time, once for all that wait, and kept while their issuer is down."""

import asyncio
from datetime import timedelta

import pytest

from app.domain.errors import RegistryError
from app.domain.registry_state import LastErrorState, LoginState
from app.registry.auth.credentials import Login
from app.registry.auth.renewal import LoginRenewal, RenewableLogin
from app.registry.http.errors import ErrorContext, make_error
from tests.support.clock import SettableClock

HOUR = 3600


class Issuer:
    """Issues logins: how long they are said to live, whether it is down, and how often it was asked."""

    def __init__(self, clock: SettableClock, life: timedelta = timedelta(hours=12)) -> None:
        self.clock, self.life = clock, life
        self.asked, self.is_down = 0, False

    async def fetch(self) -> RenewableLogin:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_down:
            raise make_error("down", ErrorContext("r", "log_in"), code="registry_unreachable", temporary=True)
        return RenewableLogin(Login("AWS", f"password-{self.asked}"), self.clock() + self.life)


async def settled(renewal: LoginRenewal) -> None:
    if renewal._renewal is not None:
        await asyncio.wait([renewal._renewal])


async def test_many_that_wait_are_one_renewal(clock: SettableClock) -> None:
    issuer = Issuer(clock)
    renewal = LoginRenewal(issuer.fetch, clock=clock)
    assert len(set(await asyncio.gather(*(renewal.get() for _ in range(50))))) == 1
    assert issuer.asked == 1


async def test_a_caller_that_is_cancelled_takes_the_login_from_nobody(clock: SettableClock) -> None:
    renewal = LoginRenewal(Issuer(clock).fetch, clock=clock)
    first, second = (asyncio.create_task(renewal.get()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).password == "password-1"


async def test_a_login_is_renewed_before_it_ends_and_no_request_waits(clock: SettableClock) -> None:
    issuer = Issuer(clock)
    renewal = LoginRenewal(issuer.fetch, clock=clock)
    first = await renewal.get()
    clock.advance(8 * HOUR)
    assert await renewal.get() == first
    assert issuer.asked == 1
    clock.advance(3 * HOUR)
    assert await renewal.get() == first
    await settled(renewal)
    assert (await renewal.get()).password == "password-2"


async def test_while_the_issuer_is_down_a_login_lasts_and_then_the_error_is_temporary(clock: SettableClock) -> None:
    issuer = Issuer(clock)
    renewal = LoginRenewal(issuer.fetch, clock=clock)
    first = await renewal.get()
    issuer.is_down = True
    clock.advance(11 * HOUR)
    for _ in range(20):
        assert await renewal.get() == first
        await settled(renewal)
    assert issuer.asked == 2
    clock.advance(HOUR + 1)
    with pytest.raises(RegistryError) as failure:
        await renewal.get()
    assert failure.value.temporary
    issuer.is_down = False
    clock.advance(6)
    assert (await renewal.get()).password == "password-4"


@pytest.mark.parametrize("days", [-4000, 0, 4000])
async def test_a_lying_expiry_asks_neither_all_the_time_nor_never(clock: SettableClock, days: int) -> None:
    issuer = Issuer(clock, timedelta(days=days))
    renewal = LoginRenewal(issuer.fetch, clock=clock)
    await renewal.get()
    clock.advance(180)
    await renewal.get()
    assert issuer.asked == 1
    clock.advance(12 * HOUR)
    await renewal.get()
    assert issuer.asked == 2


async def test_a_refused_login_is_asked_for_anew_unless_it_is_young(clock: SettableClock) -> None:
    issuer = Issuer(clock)
    renewal = LoginRenewal(issuer.fetch, clock=clock)
    young = timedelta(seconds=5)
    first = await renewal.get()
    assert not renewal.refuse(first, unless_younger=young)
    clock.advance(6)
    assert renewal.refuse(first, unless_younger=young)
    assert await renewal.get() != first
    assert renewal.refuse(first, unless_younger=young)
    assert issuer.asked == 2


async def test_each_that_waits_raises_an_error_of_its_own(clock: SettableClock) -> None:
    issuer = Issuer(clock)
    issuer.is_down = True
    renewal = LoginRenewal(issuer.fetch, clock=clock)
    together = await asyncio.gather(*(renewal.get() for _ in range(3)), return_exceptions=True)
    later = await asyncio.gather(*(renewal.get() for _ in range(3)), return_exceptions=True)
    assert issuer.asked == 1
    assert len({id(error) for error in (*together, *later)}) == 6
    assert {(error.code, error.temporary) for error in together + later if isinstance(error, RegistryError)} == {
        ("registry_unreachable", True)
    }


async def test_what_is_shown_of_a_login_is_its_end_and_why_it_is_not_renewed(clock: SettableClock) -> None:
    issuer = Issuer(clock)
    renewal = LoginRenewal(issuer.fetch, clock=clock)
    assert renewal.state == LoginState("")
    await renewal.get()
    ends_at = clock() + timedelta(hours=12)
    assert renewal.state == LoginState("", ends_at)
    issuer.is_down = True
    clock.advance(11 * HOUR)
    begun = clock()
    for _ in range(2):
        await renewal.get()
        await settled(renewal)
        clock.advance(6)
    failed_at = begun + timedelta(seconds=6)
    assert renewal.state == LoginState(
        "", ends_at, begun, LastErrorState("registry_unreachable", "down", None, failed_at)
    )
    issuer.is_down = False
    await renewal.get()
    await settled(renewal)
    assert renewal.state == LoginState("", clock() + timedelta(hours=12))
    assert "password" not in repr(renewal.state)
