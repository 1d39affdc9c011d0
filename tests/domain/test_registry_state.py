"""What several workers say of one registry, added up."""

from datetime import timedelta

from app.domain.registry_state import LastErrorState, LoginState, RegistryState, combined_state
from tests.support.clock import START


def test_of_several_logins_the_one_that_ends_first_and_waits_longest_is_shown() -> None:
    early, late = START + timedelta(hours=1), START + timedelta(hours=2)
    old, new = (LastErrorState("unauthorized", text, 401, at) for text, at in (("old", early), ("new", late)))
    logins = [
        None,
        LoginState("aws", late, None, old),
        LoginState("aws", None, late, None),
        LoginState("aws", early, early, new),
    ]
    combined = combined_state([RegistryState(1, 0, login=login) for login in logins])
    assert combined.login == LoginState("aws", early, early, new)
    assert combined_state([RegistryState(1, 0)]).login is None
