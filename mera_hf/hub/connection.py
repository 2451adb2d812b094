"""Talking to the Hub: what can go wrong there, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import mera_hf
from mera_hf.errors import InputError


if TYPE_CHECKING:
    from huggingface_hub import HfApi


def check_repo_id(repo_id: str) -> None:
    """Refuse what is not a repository name.

    Raises:
        [`InputError`]: naming what is wrong with it.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is no name of a repository: {error}") from error
    if "/" not in repo_id:
        raise InputError(f"{repo_id!r} has no owner; write it as org/name, with your own name or your group's.")


def hub_client() -> HfApi:
    """The client of the Hub, which is told this package's name and version."""
    from huggingface_hub import HfApi

    return HfApi(library_name="mera_hf", library_version=mera_hf.__version__)


@contextmanager
def plain_words(repo_id: str) -> Iterator[None]:
    """Turn errors of `huggingface_hub` inside into an [`InputError`] that says what to do about them.

    Args:
        repo_id (`str`): the repository concerned.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    login = "log in with `hf auth login`, or set HF_TOKEN to a token that may write (Settings, Access Tokens)"
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise InputError(f"nobody is logged in at {constants.ENDPOINT}; {login}.") from error
    except OfflineModeIsEnabled as error:
        raise InputError("HF_HUB_OFFLINE is set, so nothing can be published; unset it.") from error
    except (HTTPError, ConnectionError, RuntimeError) as error:
        reason = error.__cause__ if isinstance(error, RuntimeError) else error  # the client wraps what broke an upload
        again = "Run the same command again; what has arrived is not sent twice."
        status = reason.response.status_code if isinstance(reason, HfHubHTTPError) else None
        if isinstance(reason, RepositoryNotFoundError):
            text = f"there is no {repo_id} at {constants.ENDPOINT}, or you may not see it."
        elif status == 401:
            text = f"the token for {constants.ENDPOINT} is not valid; {login}."
        elif status == 403:
            text = f"you may not write to {repo_id}: use a token with that right, or choose another repository."
        elif isinstance(reason, HfHubHTTPError):
            text = f"{constants.ENDPOINT} answered {status}: {reason.server_message or 'no reason given'}. {again}"
        elif isinstance(reason, (HTTPError, ConnectionError)):
            text = (
                f"the connection to {constants.ENDPOINT} failed ({type(reason).__name__}); check the network and HF_ENDPOINT. "
                f"{again}"
            )
        else:
            raise
        raise InputError(text) from error
